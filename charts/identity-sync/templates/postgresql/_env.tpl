{{/* Variables of the database server: the root. */}}
{{- define "identity-sync.postgresql.serverEnv" -}}
- name: PGDATA
  value: /var/lib/postgresql/data/pgdata
{{- range list "postgres" "server-b" "user-service" }}
- name: {{ . | upper | replace "-" "_" }}_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "identity-sync.postgresql.secretName" $ }}, key: {{ . }}-password}
{{- end }}
{{- end }}
