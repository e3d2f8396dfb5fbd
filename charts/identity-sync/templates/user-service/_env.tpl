{{- define "identity-sync.userService.env" -}}
{{ include "identity-sync.commonEnv" . }}
{{ include "identity-sync.rabbitmq.env" (dict "root" . "user" "user-service") }}
- name: AUTH_EVENTS_EXCHANGE
  value: {{ .Values.userService.authEventsExchange | quote }}
- name: USER_CREATED_ROUTING_KEY
  value: {{ .Values.userService.userCreatedRoutingKey | quote }}
- name: USER_CREATED_QUEUE
  value: {{ .Values.userService.userCreatedQueue | quote }}
- name: USER_CREATED_DEAD_QUEUE
  value: {{ .Values.userService.userCreatedDeadQueue | quote }}
{{ include "identity-sync.postgresql.env" (dict "root" . "user" "user-service" "database" "user_service") }}
- name: DATABASE_MAX_CONNECTIONS
  value: {{ .Values.userService.databaseMaxConnections | int64 | quote }}
{{- end }}
