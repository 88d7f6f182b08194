{{- /*
Labels. Selectors of a Deployment can never be changed, so nothing that changes is among theirs: no
version, no chart, no checksum.
*/ -}}

{{- /* Of every object: (dict "root" $ "component" "service") */ -}}
{{- define "ntk-dist.labels" -}}
{{ include "ntk-dist.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Of pods that we make ourselves. */ -}}
{{- define "ntk-dist.podLabels" -}}
{{ include "ntk-dist.selector" . }}
app.kubernetes.io/part-of: ntk-dist
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ntk-dist.selector" -}}
app.kubernetes.io/name: ntk-dist
{{ include "ntk-dist.componentSelector" . }}
{{- end -}}

{{- /*
Of pods that KubeRay makes. It looks for the head of a RayService by app.kubernetes.io/name: kuberay,
so that name is not ours to give.
*/ -}}
{{- define "ntk-dist.rayPodLabels" -}}
{{ include "ntk-dist.componentSelector" . }}
app.kubernetes.io/part-of: ntk-dist
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* One component of this release, whoever makes its pods. */ -}}
{{- define "ntk-dist.componentSelector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* All pods of this release, whoever makes them: (the root) */ -}}
{{- define "ntk-dist.releaseSelector" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/part-of: ntk-dist
{{- end -}}
