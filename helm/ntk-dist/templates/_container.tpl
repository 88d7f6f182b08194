{{- /* What is the same in all containers of ours. */ -}}

{{- /* (dict "root" $ "image" $override) : the image of all, with what a group of workers has of its own. */ -}}
{{- define "ntk-dist.image" -}}
{{- $image := .root.Values.image -}}
{{- with .image -}}
  {{- /* Another tag is another image: the digest of all must not win over it. */ -}}
  {{- $image = merge (dict) . (omit $image "tag" "digest") -}}
{{- end -}}
{{- include "ntk-dist.imageName" (dict "image" $image "tag" .root.Chart.AppVersion) -}}
{{- end -}}

{{- define "ntk-dist.imageName" -}}
{{- $name := .image.repository -}}
{{- if .image.registry -}}
  {{- $name = printf "%s/%s" .image.registry $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{- /* The restricted pod security standard, and a root that nothing is written to. */ -}}
{{- define "ntk-dist.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* (dict "resources" $resources "gpus" 1) */ -}}
{{- define "ntk-dist.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- with .gpus | int64 -}}
  {{- $gpus := dict "nvidia.com/gpu" . -}}
  {{- $_ := set $resources "requests" (merge (dict) $gpus ($resources.requests | default dict)) -}}
  {{- $_ := set $resources "limits" (merge (dict) $gpus ($resources.limits | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- /* How our containers begin: (dict "root" $ "image" $override) */ -}}
{{- define "ntk-dist.container" -}}
image: {{ include "ntk-dist.image" . | quote }}
imagePullPolicy: {{ (.image | default dict).pullPolicy | default .root.Values.image.pullPolicy }}
securityContext:
  {{- include "ntk-dist.containerSecurity" . | nindent 2 }}
{{- end -}}

{{- /* Settings, for envFrom. */ -}}
{{- define "ntk-dist.envFrom" -}}
- configMapRef:
    name: {{ include "ntk-dist.settings.name" . }}
{{- end -}}

{{- /*
Variables of our containers: what is known only here. What does not depend on the cluster, such as
where compiled kernels are kept, is the image's.

root      the chart's
database  true: it opens the database, as the service does and what prepares it
ray       true: it is a Ray node, or speaks to one; KubeRay leaves these as they are

A variable of extraEnv takes the place of ours.
*/ -}}
{{- define "ntk-dist.env" -}}
{{- $extra := .root.Values.extraEnv -}}
{{- $taken := list -}}
{{- range $extra -}}
  {{- $taken = append $taken .name -}}
{{- end -}}
{{- $own := list -}}
{{- range include "ntk-dist.ownEnv" . | fromYamlArray -}}
  {{- if not (has .name $taken) -}}
    {{- $own = append $own . -}}
  {{- end -}}
{{- end -}}
{{- concat $own $extra | toYaml -}}
{{- end -}}

{{- define "ntk-dist.ownEnv" -}}
{{ include "ntk-dist.threadsEnv" .root }}
{{- if eq .root.Values.workspace.type "pvc" }}
# Where jobs keep what JAX has compiled: one folder for all pods, which outlives them.
- name: JAX_COMPILATION_CACHE_DIR
  value: /workspace/cache
{{- else }}
{{- include "ntk-dist.s3Env" .root.Values.workspace.s3 }}
{{- end }}
{{- if and .database (ne .root.Values.database.type "sqlite") }}
{{ include "ntk-dist.databaseEnv" .root }}
{{- end }}
{{- if and .ray (eq .root.Values.engine.type "ray") }}
{{ include "ntk-dist.rayEnv" .root }}
{{- end }}
{{- end -}}

{{- /* From inside a container its CPU limit cannot be seen: 4 CPUs of a node with 64 would get 64 threads. */ -}}
{{- define "ntk-dist.threadsEnv" -}}
- name: NPROC
  valueFrom:
    resourceFieldRef: {resource: limits.cpu}
- name: OMP_NUM_THREADS
  valueFrom:
    resourceFieldRef: {resource: limits.cpu}
{{- if not .Values.settings.threads }}
- name: NTK_DIST_THREADS
  valueFrom:
    resourceFieldRef: {resource: limits.cpu}
{{- end }}
{{- end -}}

{{- define "ntk-dist.databaseEnv" -}}
- name: NTK_DIST_SERVICE__DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ include "ntk-dist.database.secret" . | quote }}, key: {{ include "ntk-dist.database.key" . | quote }}}
{{- end -}}

{{- define "ntk-dist.rayEnv" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "ntk-dist.rayToken.name" . | quote }}, key: auth_token}
# Ray reports to its makers otherwise.
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- end -}}

{{- /* Without keys the identity is that of the service account. */ -}}
{{- define "ntk-dist.s3Env" -}}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: AWS_ACCESS_KEY_ID}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: AWS_SECRET_ACCESS_KEY}
# Only keys that end by themselves come with one.
- name: AWS_SESSION_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: AWS_SESSION_TOKEN, optional: true}
{{- end }}
{{- end -}}

{{- /* All that our containers may write to. */ -}}
{{- define "ntk-dist.mounts" -}}
{{ include "ntk-dist.scratchMounts" . }}
{{- if eq .Values.workspace.type "pvc" }}
- {name: workspace, mountPath: /workspace}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ntk-dist.volumes" -}}
{{ include "ntk-dist.scratchVolumes" . }}
{{- if eq .Values.workspace.type "pvc" }}
- name: workspace
  persistentVolumeClaim: {claimName: {{ include "ntk-dist.workspace.claim" . | quote }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* For those that have nothing to do with the workspace. */ -}}
{{- define "ntk-dist.scratchMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- end -}}

{{- define "ntk-dist.scratchVolumes" -}}
{{ include "ntk-dist.tmpVolume" . }}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.scratch.cacheSize }}}
{{- end -}}

{{- define "ntk-dist.tmpVolume" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.scratch.tmpSize }}}
{{- end -}}
