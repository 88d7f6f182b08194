{{- /* The most pods that may open the database at a time. */ -}}
{{- define "ntk-dist.service.mostReplicas" -}}
{{- if eq .Values.serving.type "rayService" -}}
{{- /* One cluster beside the other while it is replaced. */ -}}
{{- mul 2 .Values.serving.rayService.replicas -}}
{{- else if .Values.serving.autoscaling.enabled -}}
{{- .Values.serving.autoscaling.maxReplicas | int64 -}}
{{- else -}}
{{- .Values.serving.replicas | int64 -}}
{{- end -}}
{{- end -}}

{{- /* "true" where a new pod has to wait for the end of the old one. */ -}}
{{- define "ntk-dist.service.isAlone" -}}
{{- if eq .Values.database.type "sqlite" -}}
true
{{- else if eq .Values.workspace.type "pvc" -}}
  {{- if not (has "ReadWriteMany" .Values.workspace.pvc.accessModes) -}}
true
  {{- end -}}
{{- end -}}
{{- end -}}
