{{- /*
Every name, once. Whoever needs the name of something asks here, also for what KubeRay and the Dask
operator will make of ours.

The longest that follows from a name is a Dask worker's, "NAME-dask-default-worker-0123456789",
which as a label may have 63 characters: 33 of its own leave 30 for NAME. A RayService takes 47.
*/ -}}

{{- define "ntk-dist.fullname" -}}
{{- $wanted := .Values.fullnameOverride -}}
{{- if not $wanted -}}
  {{- $wanted = contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- end -}}
{{- if regexMatch "^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$" $wanted -}}
  {{- $wanted -}}
{{- else -}}
  {{- /* Too long, or no name of a Service, for a release may begin with a digit and have dots. */ -}}
  {{- $start := regexReplaceAll "[^a-z0-9]+" (lower $wanted) "-" | trimPrefix "-" -}}
  {{- if regexMatch "^[0-9]" $start -}}
    {{- $start = printf "n%s" $start -}}
  {{- end -}}
  {{- printf "%s-%s" ($start | trunc 21 | trimSuffix "-") (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "ntk-dist.serviceAccount.name" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "ntk-dist.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "ntk-dist.settings.name" -}}
{{ include "ntk-dist.fullname" . }}-settings
{{- end -}}

{{- /* Secrets */ -}}

{{- define "ntk-dist.token.name" -}}
{{- .Values.auth.existingSecret | default (printf "%s-token" (include "ntk-dist.fullname" .)) -}}
{{- end -}}

{{- define "ntk-dist.rayToken.name" -}}
{{- .Values.engine.ray.auth.existingSecret | default (printf "%s-ray-token" (include "ntk-dist.fullname" .)) -}}
{{- end -}}

{{- define "ntk-dist.database.secret" -}}
{{- if eq .Values.database.type "bundled" -}}
{{- include "ntk-dist.postgresql.name" . -}}
{{- else -}}
{{- .Values.database.url.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "ntk-dist.database.key" -}}
{{- eq .Values.database.type "bundled" | ternary "url" .Values.database.url.key -}}
{{- end -}}

{{- /* The workspace */ -}}

{{- define "ntk-dist.workspace.claim" -}}
{{- .Values.workspace.pvc.existingClaim | default (printf "%s-workspace" (include "ntk-dist.fullname" .)) -}}
{{- end -}}

{{- define "ntk-dist.workspace.place" -}}
{{- eq .Values.workspace.type "pvc" | ternary "/workspace" .Values.workspace.s3.uri -}}
{{- end -}}

{{- /* What answers HTTP: our Service, or the one that KubeRay makes for a RayService. */ -}}

{{- define "ntk-dist.service.name" -}}
{{- $name := include "ntk-dist.fullname" . -}}
{{- eq .Values.serving.type "rayService" | ternary (printf "%s-serve-svc" $name) $name -}}
{{- end -}}

{{- define "ntk-dist.service.port" -}}
{{- eq .Values.serving.type "rayService" | ternary 8000 .Values.service.port -}}
{{- end -}}

{{- /* Engines */ -}}

{{- define "ntk-dist.ray.name" -}}
{{ include "ntk-dist.fullname" . }}-ray
{{- end -}}

{{- define "ntk-dist.ray.head" -}}
{{ include "ntk-dist.ray.name" . }}-head-svc
{{- end -}}

{{- define "ntk-dist.dask.name" -}}
{{ include "ntk-dist.fullname" . }}-dask
{{- end -}}

{{- /* The Dask operator makes the same name of that of its DaskCluster. */ -}}
{{- define "ntk-dist.dask.scheduler" -}}
{{ include "ntk-dist.dask.name" . }}-scheduler
{{- end -}}

{{- define "ntk-dist.dask.workers" -}}
{{ include "ntk-dist.dask.name" . }}-worker
{{- end -}}

{{- define "ntk-dist.postgresql.name" -}}
{{ include "ntk-dist.fullname" . }}-postgresql
{{- end -}}
