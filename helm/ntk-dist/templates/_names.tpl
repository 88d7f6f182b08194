{{- /*
Every name, once. Whoever needs the name of something asks here, also for what KubeRay and the Dask
operator will make of ours.

The longest that follows from a name is a Dask worker's, "NAME-dask-default-worker-0123456789",
which as a label may have 63 characters: 33 of its own leave 30 for NAME. A RayService takes 47.
*/ -}}

{{- define "ntk-dist.fullname" -}}
{{- $own := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- include "ntk-dist.short" (dict "name" (.Values.fullnameOverride | default $own) "most" 30) -}}
{{- end -}}

{{- /*
A name as it is where it may be one of a Service and is not longer than most; else cut, and told from
others by a hash. (dict "name" $name "most" 30)
*/ -}}
{{- define "ntk-dist.short" -}}
{{- if and (le (len .name) (int .most)) (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .name) -}}
{{- .name -}}
{{- else -}}
  {{- /* A release may begin with a digit, and have dots. */ -}}
  {{- $start := regexReplaceAll "[^a-z0-9]+" .name "-" -}}
  {{- if not (regexMatch "^[a-z]" $start) -}}
    {{- $start = printf "n%s" $start -}}
  {{- end -}}
  {{- printf "%s-%s" ($start | trunc (sub .most 9 | int) | trimSuffix "-") (sha256sum .name | trunc 8) -}}
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
{{- eq .Values.serving.type "rayService" | ternary 8000 .Values.service.port | int64 -}}
{{- end -}}

{{- /* Engines */ -}}

{{- define "ntk-dist.ray.name" -}}
{{ include "ntk-dist.fullname" . }}-ray
{{- end -}}

{{- define "ntk-dist.ray.head" -}}
{{ include "ntk-dist.ray.name" . }}-head-svc
{{- end -}}

{{- define "ntk-dist.jobs.name" -}}
{{ include "ntk-dist.fullname" . }}-jobs
{{- end -}}

{{- /* KubeRay adds 6 characters, and calls a Service NAME-head-svc with 50 at most: (dict "root" $ "job" $job) */ -}}
{{- define "ntk-dist.job.name" -}}
{{- $name := printf "%s-%s" (include "ntk-dist.fullname" .root) .job.name -}}
{{- include "ntk-dist.short" (dict "name" $name "most" 35) -}}
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
