{{- define "identity-sync.serverB.env" -}}
{{ include "identity-sync.commonEnv" . }}
- name: ADMIN_TOKEN_FILE
  value: /etc/server-b/admin-token
- name: API_KEY_MODE
  value: {{ .Values.serverB.apiKeyMode }}
{{- if eq .Values.serverB.apiKeyMode "plain" }}
- name: KEY_SEALING_KEY_FILE
  value: /etc/server-b/sealing-keys
{{- end }}
{{ include "identity-sync.serviceToken.env" . }}
{{ include "identity-sync.rabbitmq.env" (dict "root" . "user" "server-b") }}
{{ include "identity-sync.postgresql.env" (dict "root" . "user" "server-b" "database" "identity_sync") }}
- name: DATABASE_MAX_CONNECTIONS
  value: {{ .Values.serverB.databaseMaxConnections | int64 | quote }}
- name: AUDIT_INTERVAL_SECONDS
  value: {{ .Values.serverB.auditIntervalSeconds | int64 | quote }}
- name: SMS_VALIDITY_SECONDS
  value: {{ .Values.serverB.sms.validitySeconds | int64 | quote }}
- name: SMS_RETENTION_DAYS
  value: {{ .Values.serverB.sms.retentionDays | int64 | quote }}
{{- if or .Values.serverB.sms.providersConfigMap .Values.serverB.sms.providersSecret }}
- name: PROVIDERS_FILE
  value: /etc/providers/providers.yaml
{{- end }}
- name: AUDIT_LOG_RETENTION_DAYS
  value: {{ .Values.serverB.auditLogRetentionDays | int64 | quote }}
{{- end }}

{{- define "identity-sync.serverB.volumes" -}}
- name: secrets
  secret:
    secretName: {{ include "identity-sync.serverB.secretName" .root }}
    defaultMode: 0440
    items:
      - {key: admin-token, path: admin-token}
      {{- if eq .root.Values.serverB.apiKeyMode "plain" }}
      - {key: sealing-keys, path: sealing-keys}
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .root.Values.serverB.tmpSizeLimit }}}
{{- with .root.Values.serverB.sms }}
{{- if or .providersConfigMap .providersSecret }}
- name: providers
  projected:
    defaultMode: 0440
    sources:
      {{- with .providersConfigMap }}
      - configMap: {name: {{ . }}}
      {{- end }}
      {{- with .providersSecret }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}
{{ include "identity-sync.caVolumes" . }}
{{- end }}

{{- define "identity-sync.serverB.providersMounts" -}}
{{- if or .Values.serverB.sms.providersConfigMap .Values.serverB.sms.providersSecret }}
- {name: providers, mountPath: /etc/providers, readOnly: true}
{{- end }}
{{- end }}
