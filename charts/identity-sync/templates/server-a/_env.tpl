{{- define "identity-sync.serverA.env" -}}
{{ include "identity-sync.commonEnv" . }}
# Also the name by which server B knows the replica, and by which the resync Job finds its pod.
- name: INSTANCE
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{ include "identity-sync.rabbitmq.env" (dict "root" . "user" "server-a") }}
- name: FAIL_CLOSED_AFTER_SECONDS
  value: {{ .Values.serverA.failClosedAfterSeconds | int64 | quote }}
- name: MAX_STALENESS_SECONDS
  value: {{ .Values.serverA.maxStalenessSeconds | int64 | quote }}
- name: USER_REQUESTS_PER_SECOND
  value: {{ .Values.serverA.userRequestsPerSecond | int64 | quote }}
- name: USER_REQUESTS_BURST
  value: {{ .Values.serverA.userRequestsBurst | int64 | quote }}
- name: TOKIO_WORKER_THREADS
  value: {{ .Values.serverA.workerThreads | int64 | quote }}
- name: SERVER_B_URL
  value: http://{{ include "identity-sync.name" (dict "root" . "component" "server-b") }}:{{ .Values.serverB.service.port }}
{{ include "identity-sync.serviceToken.env" . }}
{{- end }}
