{{/* Metadata with the labels by which a Prometheus finds the object: dict root, component, values. */}}
{{- define "identity-sync.monitorMetadata" -}}
{{- $metadata := include "identity-sync.metadata" . | fromYaml -}}
{{- $_ := set $metadata "labels" (merge (dict) .values.labels $metadata.labels) -}}
{{- toYaml $metadata -}}
{{- end }}

{{/* How an endpoint is scraped: the monitor's values. */}}
{{- define "identity-sync.scrape" -}}
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
