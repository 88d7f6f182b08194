{{- /* What is the same in all pods. */ -}}

{{- /* (dict "user" 10001) */ -}}
{{- define "ntk-dist.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
fsGroup: {{ .user }}
# A workspace of many blocks is not gone through at every start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /*
How the pods of ours begin.

root       the chart's
component  as in the labels
spec       values with nodeSelector, tolerations, affinity, priorityClassName, gpus; any may be absent
anonymous  true: it needs no identity
automount  true: it has to speak to Kubernetes
*/ -}}
{{- define "ntk-dist.pod" -}}
automountServiceAccountToken: {{ .automount | default false }}
{{- if not .anonymous }}
serviceAccountName: {{ include "ntk-dist.serviceAccount.name" .root | quote }}
{{- end }}
# Of a Service called ntk-dist Kubernetes would make NTK_DIST_PORT, where settings have their names.
enableServiceLinks: false
securityContext:
  {{- include "ntk-dist.podSecurity" (dict "user" 10001) | nindent 2 }}
{{- include "ntk-dist.placing" . }}
{{- end -}}

{{- /* Where it runs, and how its image gets there; also for images that are not ours. */ -}}
{{- define "ntk-dist.placing" -}}
{{- $spec := .spec | default dict }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $spec.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $spec.tolerations | default list }}
{{- if $spec.gpus }}
{{- /* Nodes with devices keep others off by this taint. */ -}}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $spec.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.topologySpread.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . | quote }}
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "ntk-dist.componentSelector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /*
Containers that make our tokens good before a service starts, and do nothing when they are: a Secret
that was changed takes effect at the next start, and the token before it is revoked.
*/ -}}
{{- define "ntk-dist.adoptTokens" -}}
{{ include "ntk-dist.adoptToken" (dict "root" . "name" "bootstrap" "scope" "admin" "key" "token") }}
{{- if .Values.monitoring.serviceMonitor.enabled }}
{{ include "ntk-dist.adoptToken" (dict "root" . "name" "metrics" "scope" "read" "key" "metrics-token") }}
{{- end }}
{{- end -}}

{{- define "ntk-dist.adoptToken" -}}
- name: adopt-{{ .name }}-token
  {{- include "ntk-dist.container" . | nindent 2 }}
  command: [ntk-dist, token, adopt, --name, {{ .name }}, --scope, {{ .scope }}, --workspace, {{ include "ntk-dist.workspace.place" .root | quote }}]
  envFrom:
    {{- include "ntk-dist.envFrom" .root | nindent 4 }}
  env:
    - name: NTK_DIST_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ include "ntk-dist.token.name" .root | quote }}, key: {{ .key }}}
    {{- include "ntk-dist.env" (dict "root" .root "database" true) | nindent 4 }}
  resources:
    {{- toYaml .root.Values.hooks.resources | nindent 4 }}
  volumeMounts:
    {{- include "ntk-dist.mounts" .root | nindent 4 }}
{{- end -}}
