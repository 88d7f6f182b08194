{{- /* Pods of a Dask cluster, whoever makes them: the chart itself, or the operator. */ -}}

{{- define "ntk-dist.dask.schedulerPod" -}}
{{- $dask := .Values.engine.dask -}}
{{- $pod := dict "root" . "component" "dask-scheduler" "spec" $dask.scheduler -}}
{{- include "ntk-dist.pod" $pod }}
containers:
  - name: scheduler
    {{- include "ntk-dist.container" $pod | nindent 4 }}
    command: [dask, scheduler, --host, 0.0.0.0, --port, "8786", --dashboard-address, ":8787"]
    ports:
      - {name: tcp-comm, containerPort: 8786}
      - {name: http-dashboard, containerPort: 8787}
    envFrom:
      {{- include "ntk-dist.envFrom" . | nindent 6 }}
    env:
      {{- include "ntk-dist.env" (dict "root" .) | nindent 6 }}
    readinessProbe:
      httpGet: {path: /health, port: http-dashboard}
      periodSeconds: 5
      timeoutSeconds: 5
    # A scheduler that is lost takes the jobs with it that run now: it gets its time.
    livenessProbe:
      httpGet: {path: /health, port: http-dashboard}
      initialDelaySeconds: 15
      periodSeconds: 20
      timeoutSeconds: 10
      failureThreshold: 6
    resources:
      {{- include "ntk-dist.resources" $dask.scheduler | nindent 6 }}
    volumeMounts:
      {{- include "ntk-dist.mounts" . | nindent 6 }}
volumes:
  {{- include "ntk-dist.volumes" . | nindent 2 }}
{{- end -}}

{{- /*
One process, which takes one task at a time and computes it with all CPUs of its pod. Nine tenths of
the memory are the worker's, the rest is for the nanny beside it, which ends a worker that has more
before Kubernetes ends the pod.
*/ -}}
{{- define "ntk-dist.dask.workerPod" -}}
{{- $dask := .Values.engine.dask -}}
{{- $pod := dict "root" . "component" "dask-worker" "spec" $dask.workers "image" $dask.workers.image -}}
{{- include "ntk-dist.pod" $pod }}
containers:
  - name: worker
    {{- include "ntk-dist.container" $pod | nindent 4 }}
    command:
      - dask
      - worker
      - tcp://{{ include "ntk-dist.dask.scheduler" . }}:8786
      - --nthreads
      - "1"
      - --nworkers
      - "1"
      - --memory-limit
      - "0.9"
      - --local-directory
      - /tmp/dask
      - --dashboard-address
      - ":8788"
      {{- if eq $dask.kind "operator" }}
      # By this name the operator retires it.
      - --name
      - $(DASK_WORKER_NAME)
      {{- end }}
    ports:
      - {name: http-dashboard, containerPort: 8788}
    envFrom:
      {{- include "ntk-dist.envFrom" . | nindent 6 }}
    env:
      {{- include "ntk-dist.env" (dict "root" .) | nindent 6 }}
    readinessProbe:
      httpGet: {path: /health, port: http-dashboard}
      periodSeconds: 10
      timeoutSeconds: 5
    # The nanny starts a worker again that is gone; this is for one that hangs. It is deaf while a
    # long block holds its lock.
    livenessProbe:
      httpGet: {path: /health, port: http-dashboard}
      initialDelaySeconds: 30
      periodSeconds: 60
      timeoutSeconds: 30
      failureThreshold: 10
    resources:
      {{- include "ntk-dist.resources" $dask.workers | nindent 6 }}
    volumeMounts:
      {{- include "ntk-dist.mounts" . | nindent 6 }}
volumes:
  {{- include "ntk-dist.volumes" . | nindent 2 }}
{{- end -}}
