{{- /*
Settings of the package as environment variables, which is how it reads them. Secrets are not among
them: the URL of the database comes from a Secret.
*/ -}}

{{- /* The data of the ConfigMap. */ -}}
{{- define "ntk-dist.settings" -}}
{{- $settings := omit .Values.settings "service" -}}
{{- $service := merge (dict) (include "ntk-dist.settings.given" .Values.settings.service | fromJson) (include "ntk-dist.settings.ofEngine" . | fromJson) -}}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
NTK_DIST_{{ upper $name }}: {{ include "ntk-dist.settings.value" $value | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $service }}
NTK_DIST_SERVICE__{{ upper $name }}: {{ include "ntk-dist.settings.value" $value | quote }}
{{- end }}
{{- end -}}

{{- /* Lists are JSON, and so are numbers: by itself Helm writes 268435456 as 2.68435456e+08. */ -}}
{{- define "ntk-dist.settings.value" -}}
{{- kindIs "string" . | ternary . (toJson .) -}}
{{- end -}}

{{- /* What is not null, as JSON. */ -}}
{{- define "ntk-dist.settings.given" -}}
{{- $given := dict -}}
{{- range $name, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $given $name $value -}}
{{- end -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{- /* What follows from the engine, as JSON. The first executor is for jobs that name none. */ -}}
{{- define "ntk-dist.settings.ofEngine" -}}
{{- if eq .Values.engine.type "ray" -}}
{{- dict "executors" (list "ray" "local") "ray_jobs_url" (printf "http://%s:8265" (include "ntk-dist.ray.head" .)) | toJson -}}
{{- else if eq .Values.engine.type "dask" -}}
{{- dict "executors" (list (printf "dask://%s:8786" (include "ntk-dist.dask.scheduler" .)) "local") | toJson -}}
{{- else -}}
{{- dict "executors" (list "local") | toJson -}}
{{- end -}}
{{- end -}}

{{- /* Pods are made anew when it changes, and only then. */ -}}
{{- define "ntk-dist.settings.checksum" -}}
checksum/settings: {{ include "ntk-dist.settings" . | sha256sum }}
{{- end -}}
