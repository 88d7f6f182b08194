{{- /*
A Ray cluster as KubeRay describes it: one for jobs, one for each RayJob, one that serves.

root       the chart's
role       ray, job or serve: which of these, in labels
head       values of the head
groups     values of the groups of workers
scales     true: groups grow and shrink with what is asked of them
serves     true: it answers HTTP, and needs what the service needs
jobFiles   true: the head can read the files of engine.ray.jobs

KubeRay adds the probes, the other parameters of `ray start` and an init container that waits for
the head.
*/ -}}
{{- define "ntk-dist.ray.spec" -}}
{{- $root := .root -}}
{{- $head := dict "root" $root "component" (printf "%s-head" .role) "spec" .head "automount" .scales -}}
{{- $env := dict "root" $root "database" .serves "ray" true -}}
rayVersion: {{ $root.Values.engine.ray.version | quote }}
authOptions:
  mode: token
  secretName: {{ include "ntk-dist.rayToken.name" $root | quote }}
{{- if .scales }}
{{- include "ntk-dist.ray.autoscaler" $root.Values.engine.ray.autoscaling }}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    {{- include "ntk-dist.ray.startParams" $root | nindent 4 }}
    dashboard-host: 0.0.0.0
    num-cpus: {{ .head.numCpus | int64 | quote }}
  template:
    metadata:
      {{- include "ntk-dist.ray.podMetadata" $head | nindent 6 }}
    spec:
      {{- include "ntk-dist.pod" $head | nindent 6 }}
      {{- if .serves }}
      initContainers:
        {{- include "ntk-dist.adoptTokens" $root | nindent 8 }}
      {{- end }}
      containers:
        - name: ray-head
          {{- include "ntk-dist.container" $head | nindent 10 }}
          ports:
            - {name: gcs-server, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: metrics, containerPort: 8080}
            {{- if .serves }}
            - {name: serve, containerPort: 8000}
            {{- end }}
          {{- include "ntk-dist.ray.container" (dict "env" $env "spec" .head) | nindent 10 }}
            {{- if .jobFiles }}
            - {name: jobs, mountPath: /etc/ntk-dist/jobs, readOnly: true}
            {{- end }}
      volumes:
        {{- include "ntk-dist.volumes" $root | nindent 8 }}
        {{- if .jobFiles }}
        - name: jobs
          configMap: {name: {{ include "ntk-dist.jobs.name" $root }}}
        {{- end }}
workerGroupSpecs:
  {{- range .groups }}
  {{- $worker := dict "root" $root "component" (printf "%s-worker" $.role) "spec" . "image" .image }}
  {{- $counts := include "ntk-dist.ray.counts" (dict "group" . "scales" $.scales) | fromJson }}
  - groupName: {{ .name | quote }}
    replicas: {{ $counts.now | int64 }}
    minReplicas: {{ $counts.min | int64 }}
    maxReplicas: {{ $counts.max | int64 }}
    rayStartParams:
      {{- include "ntk-dist.ray.startParams" $root | nindent 6 }}
    template:
      metadata:
        {{- include "ntk-dist.ray.podMetadata" $worker | nindent 8 }}
      spec:
        {{- include "ntk-dist.pod" $worker | nindent 8 }}
        containers:
          - name: ray-worker
            {{- include "ntk-dist.container" $worker | nindent 12 }}
            ports:
              - {name: metrics, containerPort: 8080}
              {{- if $.serves }}
              - {name: serve, containerPort: 8000}
              {{- end }}
            {{- include "ntk-dist.ray.container" (dict "env" $env "spec" .) | nindent 12 }}
        volumes:
          {{- include "ntk-dist.volumes" $root | nindent 10 }}
  {{- end }}
{{- end -}}

{{- define "ntk-dist.ray.podMetadata" -}}
labels:
  {{- include "ntk-dist.rayPodLabels" . | nindent 2 }}
annotations:
  {{- include "ntk-dist.settings.checksum" .root | nindent 2 }}
  {{- with .spec.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* Of both kinds of nodes; the list of mounts comes last, so that more can follow. */ -}}
{{- define "ntk-dist.ray.container" -}}
envFrom:
  {{- include "ntk-dist.envFrom" .env.root | nindent 2 }}
env:
  {{- include "ntk-dist.env" .env | nindent 2 }}
resources:
  {{- include "ntk-dist.resources" .spec | nindent 2 }}
volumeMounts:
  {{- include "ntk-dist.mounts" .env.root | nindent 2 }}
{{- end -}}

{{- define "ntk-dist.ray.startParams" -}}
object-store-memory: {{ .Values.engine.ray.objectStoreBytes | int64 | quote }}
{{- end -}}

{{- define "ntk-dist.ray.autoscaler" }}
enableInTreeAutoscaling: true
autoscalerOptions:
  idleTimeoutSeconds: {{ .idleTimeoutSeconds | int64 }}
  upscalingMode: {{ .upscalingMode }}
  securityContext:
    {{- include "ntk-dist.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- /* How many workers a group has, as JSON: (dict "group" $group "scales" true) */ -}}
{{- define "ntk-dist.ray.counts" -}}
{{- $now := .group.replicas | int64 -}}
{{- if .scales -}}
{{- dict "now" $now "min" (hasKey .group "minReplicas" | ternary .group.minReplicas $now | int64) "max" (hasKey .group "maxReplicas" | ternary .group.maxReplicas $now | int64) | toJson -}}
{{- else -}}
{{- dict "now" $now "min" $now "max" $now | toJson -}}
{{- end -}}
{{- end -}}
