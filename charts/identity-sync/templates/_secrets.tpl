{{/* Data of a Secret that is made once: what the cluster has, or new random values. One rendering gives one answer however
     often it is asked, so that checksums fit; hence the memory in .Values.
     dict root, name, new (dict of key -> base64 of a new value), setting (that names an existing Secret), and optionally
     volume (a claim whose data are worthless without the Secret). */}}
{{- define "identity-sync.generated" -}}
{{- $memory := printf "_%s" .name -}}
{{- if not (hasKey .root.Values $memory) -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $data := .new -}}
{{- with lookup "v1" "Secret" $namespace .name -}}
{{- $data = dig "data" dict . -}}
{{- range $key := keys $.new | sortAlpha -}}
{{- if not (hasKey $data $key) -}}
{{- fail (printf "Secret %s lacks the key %s. Add it: kubectl -n %s patch secret %s -p '{\"stringData\": {\"%s\": \"…\"}}'. It is not made anew, since that could lose its other keys." $.name $key $namespace $.name $key) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- include "identity-sync.requireLookup" . -}}
{{- if and .volume (lookup "v1" "PersistentVolumeClaim" $namespace .volume) -}}
{{- fail (printf "the data in the volume %s need the Secret %s, which is gone: restore it, name another in %s, or delete the volume" .volume .name .setting) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .root.Values $memory $data -}}
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

{{/* A Secret that is made once: dict root, component, name, new, setting, volume. A hook that is there only until the
     Secret is: no part of the release, so that neither an upgrade nor a rollback touches what an operator has changed in
     it, such as the sealing keys, and uninstall keeps it. */}}
{{- define "identity-sync.generatedSecret" -}}
{{- $data := include "identity-sync.generated" . -}}
{{- if not (lookup "v1" "Secret" .root.Release.Namespace .name) -}}
apiVersion: v1
kind: Secret
metadata:
  {{- $annotations := dict "helm.sh/hook" "pre-install,pre-upgrade" "helm.sh/hook-delete-policy" "before-hook-creation" }}
  {{- include "identity-sync.metadata" (merge (dict "annotations" $annotations) .) | nindent 2 }}
type: Opaque
data:
  {{- $data | nindent 2 }}
{{- end }}
{{- end }}

{{/* A random password, in base64 for `data`. */}}
{{- define "identity-sync.password" -}}
{{- randAlphaNum 32 | b64enc -}}
{{- end }}

{{/* An existing Secret's data in JSON, as the cluster has them now; the same where it cannot be asked: dict root, name. */}}
{{- define "identity-sync.existingData" -}}
{{- dig "data" dict (lookup "v1" "Secret" .root.Release.Namespace .name) | toJson -}}
{{- end }}

{{/* Checksum of how a service reaches a server elsewhere: dict root, external (the server's values), url (the service's key
     in them). */}}
{{- define "identity-sync.externalChecksum" -}}
{{- $parts := list (get .external .url) -}}
{{- range compact (list .external.existingSecret .external.caSecret) -}}
{{- $parts = append $parts (include "identity-sync.existingData" (dict "root" $.root "name" .)) -}}
{{- end -}}
{{- toJson $parts | sha256sum -}}
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
{{- include "identity-sync.existingData" (dict "root" . "name" .Values.serverB.existingSecret) | sha256sum -}}
{{- else -}}
{{- include "identity-sync.generated" (merge (dict "root" .) (include "identity-sync.serverB.generated" . | fromYaml)) | sha256sum -}}
{{- end -}}
{{- end }}

{{/* --- the token by which server B knows server A: a Secret of its own, since server A must see no other of server B's --- */}}

{{- define "identity-sync.serviceToken.secretName" -}}
{{- default (include "identity-sync.name" (dict "root" . "component" "service-token")) .Values.serviceToken.existingSecret -}}
{{- end }}

{{/* Arguments of generatedSecret: the root. */}}
{{- define "identity-sync.serviceToken.generated" -}}
component: service-token
name: {{ include "identity-sync.serviceToken.secretName" . }}
setting: serviceToken.existingSecret
new:
  token: {{ include "identity-sync.password" . }}
{{- end }}

{{- define "identity-sync.serviceToken.checksum" -}}
{{- if .Values.serviceToken.existingSecret -}}
{{- include "identity-sync.existingData" (dict "root" . "name" .Values.serviceToken.existingSecret) | sha256sum -}}
{{- else -}}
{{- include "identity-sync.generated" (merge (dict "root" .) (include "identity-sync.serviceToken.generated" . | fromYaml)) | sha256sum -}}
{{- end -}}
{{- end }}

{{/* The token of both: the root. */}}
{{- define "identity-sync.serviceToken.env" -}}
- name: SERVICE_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "identity-sync.serviceToken.secretName" . }}, key: token}
{{- end }}

{{/* --- RabbitMQ --- */}}

{{/* The URLs are part of the release, and the passwords are not: under one name Helm would refuse or delete the other. */}}
{{- define "identity-sync.rabbitmq.secretName" -}}
{{- $own := include "identity-sync.name" (dict "root" . "component" "rabbitmq") -}}
{{- if .Values.rabbitmq.enabled -}}
{{- default $own .Values.rabbitmq.existingSecret -}}
{{- else -}}
{{- default (printf "%s-urls" $own) .Values.externalRabbitmq.existingSecret -}}
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

{{/* Checksum of how the broker is reached, or of what the built-in one takes in: dict root, url (a service's key in
     externalRabbitmq). */}}
{{- define "identity-sync.rabbitmq.checksum" -}}
{{- $values := .root.Values -}}
{{- if not $values.rabbitmq.enabled -}}
{{- include "identity-sync.externalChecksum" (dict "root" .root "external" $values.externalRabbitmq "url" .url) -}}
{{- else if $values.rabbitmq.existingSecret -}}
{{- include "identity-sync.existingData" (dict "root" .root "name" $values.rabbitmq.existingSecret) | sha256sum -}}
{{- else -}}
{{- include "identity-sync.generated" (merge (dict "root" .root) (include "identity-sync.rabbitmq.generated" .root | fromYaml)) | sha256sum -}}
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

{{/* Two names for the same reason. */}}
{{- define "identity-sync.postgresql.secretName" -}}
{{- $own := include "identity-sync.name" (dict "root" . "component" "postgresql") -}}
{{- if .Values.postgresql.enabled -}}
{{- default $own .Values.postgresql.existingSecret -}}
{{- else -}}
{{- default (printf "%s-urls" $own) .Values.externalPostgresql.existingSecret -}}
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

{{/* Checksum of how the database is reached: dict root, url (a service's key in externalPostgresql). */}}
{{- define "identity-sync.postgresql.checksum" -}}
{{- $values := .root.Values -}}
{{- if not $values.postgresql.enabled -}}
{{- include "identity-sync.externalChecksum" (dict "root" .root "external" $values.externalPostgresql "url" .url) -}}
{{- else if $values.postgresql.existingSecret -}}
{{- include "identity-sync.existingData" (dict "root" .root "name" $values.postgresql.existingSecret) | sha256sum -}}
{{- else -}}
{{- include "identity-sync.generated" (merge (dict "root" .root) (include "identity-sync.postgresql.generated" .root | fromYaml)) | sha256sum -}}
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
