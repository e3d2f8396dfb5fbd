{{/* Data of a Secret that is made once: what the cluster has, and new random values for keys that it lacks. One rendering
     gives one answer however often it is asked, so that checksums fit; hence the memory in .Values.
     dict root, name, new (dict of key -> base64 of a new value), setting (that names an existing Secret), and optionally
     volume (a claim whose data are worthless without the Secret). */}}
{{- define "identity-sync.generated" -}}
{{- $memory := printf "_%s" .name -}}
{{- if not (hasKey .root.Values $memory) -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $found := lookup "v1" "Secret" $namespace .name -}}
{{- if not $found -}}
{{- include "identity-sync.requireLookup" . -}}
{{- if and .volume (lookup "v1" "PersistentVolumeClaim" $namespace .volume) -}}
{{- fail (printf "the data in the volume %s need the Secret %s, which is gone: restore it, name another in %s, or delete the volume" .volume .name .setting) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .root.Values $memory (merge (dict) (dig "data" dict $found) .new) -}}
{{- end -}}
{{- get .root.Values $memory | toYaml -}}
{{- end }}

{{/* Fails where the cluster cannot be asked: a Secret that is there would be taken for missing, and made anew. The second
     look is for a namespace that is made by this very install. */}}
{{- define "identity-sync.requireLookup" -}}
{{- if not .root.Values.generateSecretsOffline -}}
{{- if not (or (lookup "v1" "ServiceAccount" .root.Release.Namespace "default") (lookup "v1" "Namespace" "" "kube-system")) -}}
{{- fail (printf "%s: name an existing Secret. Secrets cannot be made here, because this rendering (helm template, --dry-run=client, a GitOps tool) cannot look up whether they exist already; each would make others." .setting) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A Secret that is made once: dict root, component, name, new, setting, volume. A hook that is there only until all keys
     are: no part of the release, so that neither an upgrade nor a rollback touches what an operator has changed in it, such
     as the sealing keys, and uninstall keeps it. */}}
{{- define "identity-sync.generatedSecret" -}}
{{- $found := dig "data" dict (lookup "v1" "Secret" .root.Release.Namespace .name) -}}
{{- $missing := list -}}
{{- range $key, $_ := .new -}}
{{- if not (hasKey $found $key) }}{{ $missing = append $missing $key }}{{ end -}}
{{- end -}}
{{- if $missing -}}
apiVersion: v1
kind: Secret
metadata:
  {{- $annotations := dict "helm.sh/hook" "pre-install,pre-upgrade" "helm.sh/hook-delete-policy" "before-hook-creation" }}
  {{- include "identity-sync.metadata" (merge (dict "annotations" $annotations) .) | nindent 2 }}
type: Opaque
data:
  {{- include "identity-sync.generated" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A random password, in base64 for `data`. */}}
{{- define "identity-sync.password" -}}
{{- randAlphaNum 32 | b64enc -}}
{{- end }}

{{/* Checksum of an existing Secret's data as the cluster has them now; the same where it cannot be asked:
     dict root, name. */}}
{{- define "identity-sync.existingChecksum" -}}
{{- dig "data" dict (lookup "v1" "Secret" .root.Release.Namespace .name) | toJson | sha256sum -}}
{{- end }}

{{/* --- server B's own --- */}}

{{- define "identity-sync.serverB.secretName" -}}
{{- default (include "identity-sync.name" (dict "root" . "component" "server-b")) .Values.serverB.existingSecret -}}
{{- end }}

{{/* Arguments of generatedSecret: the root. The database's API keys open with the sealing key. */}}
{{- define "identity-sync.serverB.generated" -}}
component: server-b
name: {{ include "identity-sync.serverB.secretName" . }}
setting: serverB.existingSecret
{{- if .Values.postgresql.enabled }}
volume: data-{{ include "identity-sync.name" (dict "root" . "component" "postgresql") }}-0
{{- end }}
new:
  admin-token: {{ include "identity-sync.password" . }}
  sealing-keys: {{ printf "1:%s\n" (randBytes 32) | b64enc }}
{{- end }}

{{- define "identity-sync.serverB.checksum" -}}
{{- if .Values.serverB.existingSecret -}}
{{- include "identity-sync.existingChecksum" (dict "root" . "name" .Values.serverB.existingSecret) -}}
{{- else -}}
{{- include "identity-sync.generated" (merge (dict "root" .) (include "identity-sync.serverB.generated" . | fromYaml)) | sha256sum -}}
{{- end -}}
{{- end }}

{{/* --- RabbitMQ --- */}}

{{- define "identity-sync.rabbitmq.secretName" -}}
{{- $own := include "identity-sync.name" (dict "root" . "component" "rabbitmq") -}}
{{- if .Values.rabbitmq.enabled -}}
{{- default $own .Values.rabbitmq.existingSecret -}}
{{- else -}}
{{- default $own .Values.externalRabbitmq.existingSecret -}}
{{- end -}}
{{- end }}

{{/* Arguments of generatedSecret: the root. No volume: the broker takes the passwords anew at each start. */}}
{{- define "identity-sync.rabbitmq.generated" -}}
component: rabbitmq
name: {{ include "identity-sync.rabbitmq.secretName" . }}
setting: rabbitmq.existingSecret
new:
  {{- range list "server-a" "server-b" "user-service" "auth-service" }}
  {{ . }}-password: {{ include "identity-sync.password" $ }}
  {{- end }}
{{- end }}

{{- define "identity-sync.rabbitmq.checksum" -}}
{{- $external := .Values.externalRabbitmq -}}
{{- with ternary .Values.rabbitmq.existingSecret $external.existingSecret .Values.rabbitmq.enabled -}}
{{- include "identity-sync.existingChecksum" (dict "root" $ "name" .) -}}
{{- else -}}
{{- if .Values.rabbitmq.enabled -}}
{{- include "identity-sync.generated" (merge (dict "root" .) (include "identity-sync.rabbitmq.generated" . | fromYaml)) | sha256sum -}}
{{- else -}}
{{- list $external.serverAUrl $external.serverBUrl $external.userServiceUrl | toJson | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* How a service reaches the broker: dict root, user. */}}
{{- define "identity-sync.rabbitmq.env" -}}
{{- $secret := include "identity-sync.rabbitmq.secretName" .root -}}
{{- if .root.Values.rabbitmq.enabled -}}
- name: RABBITMQ_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .user }}-password}
- name: RABBITMQ_URL
  value: amqp://{{ .user }}:$(RABBITMQ_PASSWORD)@{{ include "identity-sync.name" (dict "root" .root "component" "rabbitmq") }}:5672/
{{- else -}}
- name: RABBITMQ_URL
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .user }}-url}
{{- if .root.Values.externalRabbitmq.caSecret }}
- name: RABBITMQ_CA_FILE
  value: /etc/rabbitmq-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* --- PostgreSQL --- */}}

{{- define "identity-sync.postgresql.secretName" -}}
{{- $own := include "identity-sync.name" (dict "root" . "component" "postgresql") -}}
{{- if .Values.postgresql.enabled -}}
{{- default $own .Values.postgresql.existingSecret -}}
{{- else -}}
{{- default $own .Values.externalPostgresql.existingSecret -}}
{{- end -}}
{{- end }}

{{/* Arguments of generatedSecret: the root. */}}
{{- define "identity-sync.postgresql.generated" -}}
component: postgresql
name: {{ include "identity-sync.postgresql.secretName" . }}
setting: postgresql.existingSecret
volume: data-{{ include "identity-sync.name" (dict "root" . "component" "postgresql") }}-0
new:
  {{- range list "postgres" "server-b" "user-service" }}
  {{ . }}-password: {{ include "identity-sync.password" $ }}
  {{- end }}
{{- end }}

{{- define "identity-sync.postgresql.checksum" -}}
{{- $external := .Values.externalPostgresql -}}
{{- with ternary .Values.postgresql.existingSecret $external.existingSecret .Values.postgresql.enabled -}}
{{- include "identity-sync.existingChecksum" (dict "root" $ "name" .) -}}
{{- else -}}
{{- if .Values.postgresql.enabled -}}
{{- include "identity-sync.generated" (merge (dict "root" .) (include "identity-sync.postgresql.generated" . | fromYaml)) | sha256sum -}}
{{- else -}}
{{- list $external.serverBUrl $external.userServiceUrl | toJson | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* How a service reaches its database: dict root, user, database. */}}
{{- define "identity-sync.postgresql.env" -}}
{{- $secret := include "identity-sync.postgresql.secretName" .root -}}
{{- if .root.Values.postgresql.enabled -}}
- name: DATABASE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .user }}-password}
- name: DATABASE_URL
  value: postgres://{{ .database }}:$(DATABASE_PASSWORD)@{{ include "identity-sync.name" (dict "root" .root "component" "postgresql") }}:5432/{{ .database }}
{{- else -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .user }}-url}
{{- end }}
{{- end }}

{{/* --- authorities of external servers --- */}}

{{/* dict root, postgresql (whether the pod uses the database). */}}
{{- define "identity-sync.caVolumes" -}}
{{- if not .root.Values.rabbitmq.enabled }}{{ with .root.Values.externalRabbitmq.caSecret }}
- name: rabbitmq-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}{{ end }}
{{- if and .postgresql (not .root.Values.postgresql.enabled) }}{{ with .root.Values.externalPostgresql.caSecret }}
- name: postgresql-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}{{ end }}
{{- end }}

{{- define "identity-sync.caMounts" -}}
{{- range include "identity-sync.caVolumes" . | fromYamlArray }}
- name: {{ .name }}
  mountPath: /etc/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}
