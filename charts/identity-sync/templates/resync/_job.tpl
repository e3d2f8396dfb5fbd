{{/* Arguments of the resync helpers: the root. */}}
{{- define "identity-sync.resync.env" -}}
- name: LOG
  value: {{ .Values.log.level | quote }}
# For people: `kubectl logs`, and Helm when the hook failed.
- name: LOG_FORMAT
  value: text
- name: SERVER_B_URL
  value: http://{{ include "identity-sync.name" (dict "root" . "component" "server-b") }}:{{ .Values.serverB.service.port }}
- name: ADMIN_TOKEN_FILE
  value: /etc/server-b/admin-token
- name: NAMESPACE
  value: {{ .Release.Namespace }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: DEPLOYMENT
  value: {{ include "identity-sync.name" (dict "root" . "component" "server-a") }}
- name: LEASE
  value: {{ include "identity-sync.name" (dict "root" . "component" "resync") }}
- name: RESULT_CONFIG_MAP
  value: {{ include "identity-sync.name" (dict "root" . "component" "resync") }}
- name: TIMEOUT_SECONDS
  value: {{ .Values.resync.timeoutSeconds | int64 | quote }}
{{- include "identity-sync.tracingEnv" . }}
{{- end }}

{{/* The one secret that the Job and `helm test` need: the root. */}}
{{- define "identity-sync.resync.tokenVolume" -}}
- name: admin-token
  secret:
    secretName: {{ include "identity-sync.serverB.secretName" . }}
    defaultMode: 0440
    items: [{key: admin-token, path: admin-token}]
{{- end }}

{{/* Spec of the Job, which the hook and the CronJob share: the root. */}}
{{- define "identity-sync.resync.jobSpec" -}}
{{- $values := .Values.resync -}}
{{- $me := dict "root" . "component" "resync" "values" $values "user" 65532 -}}
{{- $_ := set $me "account" (include "identity-sync.serviceAccountName" $me) -}}
# A second try would not fit into Helm's timeout, and its log would hide the first one's.
backoffLimit: 0
# Later than the pod's own end: the Job's controller deletes the pod, and with it the log that Helm prints.
activeDeadlineSeconds: {{ add $values.timeoutSeconds 35 }}
ttlSecondsAfterFinished: {{ $values.ttlSecondsAfterFinished }}
template:
  metadata:
    {{- include "identity-sync.podMetadata" $me | nindent 4 }}
  spec:
    {{- include "identity-sync.podSpec" $me | nindent 4 }}
    restartPolicy: Never
    # If the process began late: kubelet ends it, and keeps its log.
    activeDeadlineSeconds: {{ add $values.timeoutSeconds 10 }}
    terminationGracePeriodSeconds: 20
    containers:
      - name: resync
        {{- include "identity-sync.image" (dict "root" . "image" $values.image "defaults" .Values.image) | nindent 8 }}
        args: [run]
        securityContext:
          {{- include "identity-sync.containerSecurity" . | nindent 10 }}
        {{- include "identity-sync.env" (dict "env" (include "identity-sync.resync.env" .) "extra" $values.extraEnv) | nindent 8 }}
        terminationMessagePolicy: FallbackToLogsOnError
        resources:
          {{- toYaml $values.resources | nindent 10 }}
        volumeMounts:
          - {name: admin-token, mountPath: /etc/server-b, readOnly: true}
          {{- with $values.extraVolumeMounts }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
    volumes:
      {{- concat (include "identity-sync.resync.tokenVolume" . | fromYamlArray) $values.extraVolumes | toYaml | nindent 6 }}
{{- end }}
