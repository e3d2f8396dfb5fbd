{{/* Head of a component's policy; rules follow: dict root, component. */}}
{{- define "identity-sync.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "identity-sync.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "identity-sync.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{/* The pods of components, as peers: dict root, components. */}}
{{- define "identity-sync.peers" -}}
{{- range .components }}
- podSelector:
    matchLabels:
      {{- include "identity-sync.selectorLabels" (dict "root" $.root "component" .) | nindent 6 }}
{{- end }}
{{- end }}

{{/* Rule to peers, anywhere if there are none: dict to, ports. */}}
{{- define "identity-sync.egressTo" -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "identity-sync.egressDns" -}}
{{- with .Values.networkPolicy.dns -}}
- ports:
    {{- range .ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "identity-sync.egressOtlp" -}}
{{- with .Values.tracing.otlpEndpoint }}
{{- $port := get (urlParse .) "host" | regexFind ":[0-9]+$" | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) }}
{{ include "identity-sync.egressTo" (dict "to" $.Values.networkPolicy.otlpTo "ports" (list $port)) }}
{{- end }}
{{- end }}

{{- define "identity-sync.egressRabbitmq" -}}
{{- $own := include "identity-sync.peers" (dict "root" . "components" (list "rabbitmq")) | fromYamlArray -}}
{{- $external := .Values.networkPolicy.externalRabbitmq -}}
{{- include "identity-sync.egressTo" (ternary (dict "to" $own "ports" (list 5672)) $external .Values.rabbitmq.enabled) -}}
{{- end }}

{{- define "identity-sync.egressPostgresql" -}}
{{- $own := include "identity-sync.peers" (dict "root" . "components" (list "postgresql")) | fromYamlArray -}}
{{- $external := .Values.networkPolicy.externalPostgresql -}}
{{- include "identity-sync.egressTo" (ternary (dict "to" $own "ports" (list 5432)) $external .Values.postgresql.enabled) -}}
{{- end }}

{{/* Scrapes of a port: dict root, port. */}}
{{- define "identity-sync.ingressScrapes" -}}
{{- with .root.Values.networkPolicy.scrapers }}
- ports:
    - {protocol: TCP, port: {{ $.port }}}
  from:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}
