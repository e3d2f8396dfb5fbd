{{/* What every object's name begins with. 40 characters leave room for the suffixes below the limit of 63. */}}
{{- define "identity-sync.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Name of a component's objects: dict root, component. */}}
{{- define "identity-sync.name" -}}
{{- printf "%s-%s" (include "identity-sync.fullname" .root) .component -}}
{{- end }}

{{/* Labels by which a component's pods are found; they never change: dict root, component. */}}
{{- define "identity-sync.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels, name and annotations of an object: dict root, component, and optionally name, annotations. */}}
{{- define "identity-sync.metadata" -}}
name: {{ default (include "identity-sync.name" .) .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- $own := dict
        "app.kubernetes.io/version" .root.Chart.AppVersion
        "app.kubernetes.io/managed-by" .root.Release.Service
        "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
  {{- $selected := include "identity-sync.selectorLabels" . | fromYaml }}
  {{- toYaml (merge (dict) $selected $own .root.Values.commonLabels) | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod: dict root, component, values, checksums. Nothing in them changes with the chart's
     version alone, so that an upgrade that changes nothing rolls nothing. */}}
{{- define "identity-sync.podMetadata" -}}
labels:
  {{- $own := include "identity-sync.selectorLabels" . | fromYaml }}
  {{- toYaml (merge (dict) $own .values.podLabels .root.Values.commonLabels) | nindent 2 }}
{{- with merge (dict) (default dict .checksums) .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every pod has: dict root, component, values, user, and optionally account. The group of files is changed only in
     a volume that is new, since PostgreSQL refuses a directory that its group may read. */}}
{{- define "identity-sync.podSpec" -}}
{{- $global := .root.Values.global -}}
serviceAccountName: {{ default "default" .account }}
automountServiceAccountToken: {{ eq .component "resync" }}
enableServiceLinks: false
{{- with concat $global.imagePullSecrets .root.Values.image.pullSecrets | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Over nodes and zones, each revision by itself, where that is possible: dict root, component, values. */}}
{{- define "identity-sync.topologySpread" -}}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "identity-sync.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Security context of every container. */}}
{{- define "identity-sync.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Image and pull policy: dict root, image, and defaults (the image block that fills what is empty). */}}
{{- define "identity-sync.image" -}}
{{- $defaults := default dict .defaults -}}
{{- $registry := coalesce .root.Values.global.imageRegistry .image.registry $defaults.registry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (not (empty $registry)) -}}
{{- $tag := coalesce (include "identity-sync.tag" .image.tag) (include "identity-sync.tag" $defaults.tag) .root.Chart.AppVersion -}}
image: {{ ternary (printf "%s@%s" $name .image.digest) (printf "%s:%s" $name $tag) (not (empty .image.digest)) }}
imagePullPolicy: {{ coalesce .image.pullPolicy $defaults.pullPolicy }}
{{- end }}

{{/* A tag as text. Numbers in a file of values are floats, whose text has an exponent from 7 digits on. */}}
{{- define "identity-sync.tag" -}}
{{- with . }}{{ ternary (int64 .) . (kindIs "float64" .) }}{{ end -}}
{{- end }}

{{/* The chart's variables with the user's: one of the same name takes the chart's place, so no name is there twice, and
     `$(NAME)` in later ones finds it: dict env (YAML list), extra. */}}
{{- define "identity-sync.env" -}}
{{- $extra := dict -}}
{{- range .extra -}}
{{- if hasKey $extra .name }}{{ fail (printf "extraEnv: %s is there twice" .name) }}{{ end -}}
{{- $_ := set $extra .name . -}}
{{- end -}}
{{- $env := list -}}
{{- range fromYamlArray .env -}}
{{- $env = append $env (default . (get $extra .name)) -}}
{{- $_ := unset $extra .name -}}
{{- end -}}
{{- range .extra -}}
{{- if hasKey $extra .name }}{{ $env = append $env . }}{{ end -}}
{{- end -}}
env:
  {{- toYaml $env | nindent 2 }}
{{- end }}

{{/* Variables of every service: the root. */}}
{{- define "identity-sync.commonEnv" -}}
- name: LOG
  value: {{ .Values.log.level | quote }}
- name: LOG_FORMAT
  value: {{ .Values.log.format }}
{{- include "identity-sync.tracingEnv" . }}
{{- end }}

{{/* Where traces go and which, if anywhere: the root. */}}
{{- define "identity-sync.tracingEnv" -}}
{{- if .Values.tracing.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .Values.tracing.otlpEndpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .Values.tracing.protocol }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .Values.tracing.sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .Values.tracing.ratio | quote }}
- name: OTEL_POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(OTEL_POD_NAME),service.namespace={{ .Release.Name }}
{{- end }}
{{- end }}

{{/* Ports of a service's container. */}}
{{- define "identity-sync.ports" -}}
- name: http
  containerPort: 8080
- name: admin
  containerPort: 9090
{{- end }}

{{/* Probes on the admin port: the component's values. */}}
{{- define "identity-sync.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  {{- toYaml .startupProbe | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  {{- toYaml .livenessProbe | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  {{- toYaml .readinessProbe | nindent 2 }}
{{- end }}

{{/* Name of a component's ServiceAccount: dict root, component, values. */}}
{{- define "identity-sync.serviceAccountName" -}}
{{- if .values.serviceAccount.create -}}
{{- default (include "identity-sync.name" .) .values.serviceAccount.name -}}
{{- else if and (eq .component "resync") (not .values.serviceAccount.name) -}}
{{- fail "resync.serviceAccount.name: name one, since resync.serviceAccount.create is false; its rights are not for the ServiceAccount that every pod may have" -}}
{{- else -}}
{{- default "default" .values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* A ServiceAccount whose token no pod gets unasked: dict root, component, values. */}}
{{- define "identity-sync.serviceAccount" -}}
{{- if .values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- $name := include "identity-sync.serviceAccountName" . }}
  {{- include "identity-sync.metadata" (merge (dict "name" $name "annotations" .values.serviceAccount.annotations) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* A PodDisruptionBudget: dict root, component, values. */}}
{{- define "identity-sync.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "identity-sync.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  # Pods that an outage of the broker made unready must not block a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "identity-sync.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Fields of a StatefulSet of one pod, up to the pod: dict root, component, values, checksums. */}}
{{- define "identity-sync.statefulSet" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "identity-sync.metadata" . | nindent 2 }}
spec:
  replicas: 1
  serviceName: {{ include "identity-sync.name" . }}
  {{- $persistence := .values.persistence }}
  {{- if $persistence.enabled }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: {{ $persistence.whenDeleted }}
    whenScaled: Retain
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "identity-sync.selectorLabels" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with coalesce $persistence.storageClass .root.Values.global.storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests: {storage: {{ $persistence.size }}}
  {{- end }}
  selector:
    matchLabels:
      {{- include "identity-sync.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- include "identity-sync.podMetadata" . | nindent 6 }}
    spec:
      {{- include "identity-sync.podSpec" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
{{- end }}
