{{/* The broker's definitions: one user per service with the rights that its declarations, bindings, publishes and
     consumers need. `amq.default` is the default exchange. Declaring a queue with a dead-letter exchange takes the right
     to read the queue and to write to that exchange. Passwords are variables of the init container that writes the file. */}}
{{- define "identity-sync.rabbitmq.definitions" -}}
{{- $values := .Values.userService -}}
{{- $config := list "config_events_exchange" "config_snapshot_requests" "config_replica_reports" -}}
{{- $sms := list "sms_outbound_queue" "sms_outbound_queue.dead" -}}
{{- $created := list $values.userCreatedQueue $values.userCreatedDeadQueue $values.authEventsExchange -}}
{{- $users := dict
      "server-a" (dict
        "configure" (concat (list "server-a.") $config (list "sms_usage_exchange"))
        "write" (list "server-a." "amq.default")
        "read" (list "server-a." "config_events_exchange" "sms_usage_exchange"))
      "server-b" (dict
        "configure" (concat (list "server-b.") $config $sms (list "sms_usage_exchange"))
        "write" (list "amq.default" "config_events_exchange" "sms_usage_exchange")
        "read" (concat (list "server-b." "config_snapshot_requests" "config_replica_reports") $sms))
      "user-service" (dict
        "configure" $created
        "write" (list "amq.default" $values.userCreatedQueue)
        "read" $created)
      "auth-service" (dict
        "configure" (list $values.authEventsExchange)
        "write" (list $values.authEventsExchange)
        "read" list) -}}
{{- $definitions := dict "vhosts" (list (dict "name" "/")) "users" list "permissions" list -}}
{{- range $user := keys $users | sortAlpha -}}
{{- $rights := get $users $user -}}
{{- $password := printf "$(%s_PASSWORD)" ($user | upper | replace "-" "_") -}}
{{- $_ := set $definitions "users" (append $definitions.users (dict "name" $user "password" $password "tags" list)) -}}
{{- $permission := dict "user" $user "vhost" "/" -}}
{{- range $right := list "configure" "write" "read" -}}
{{- $_ := set $permission $right (include "identity-sync.rabbitmq.pattern" (get $rights $right)) -}}
{{- end -}}
{{- $_ := set $definitions "permissions" (append $definitions.permissions $permission) -}}
{{- end -}}
{{- toJson $definitions -}}
{{- end }}

{{/* A pattern of exactly these names, where one that ends with a dot stands for all that begin with it. */}}
{{- define "identity-sync.rabbitmq.pattern" -}}
{{- $patterns := list -}}
{{- range . -}}
{{- $patterns = append $patterns (printf "%s%s" (regexQuoteMeta .) (ternary ".+" "" (hasSuffix "." .))) -}}
{{- end -}}
{{- if $patterns }}{{ printf "^(%s)$" (join "|" $patterns) }}{{ else }}^${{ end }}
{{- end }}

{{/* rabbitmq.conf. With definitions to load, the broker makes no user `guest`. */}}
{{- define "identity-sync.rabbitmq.conf" -}}
load_definitions = /run/definitions/definitions.json
vm_memory_high_watermark.absolute = {{ .Values.rabbitmq.memoryHighWatermark }}
{{- with .Values.rabbitmq.extraConfig }}
{{ . | trim }}
{{- end }}
{{- end }}

{{/* The passwords, for `$(…)` in the definitions. */}}
{{- define "identity-sync.rabbitmq.initEnv" -}}
{{- range list "auth-service" "server-a" "server-b" "user-service" }}
- name: {{ . | upper | replace "-" "_" }}_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "identity-sync.rabbitmq.secretName" $ }}, key: {{ . }}-password}
{{- end }}
- name: DEFINITIONS
  value: {{ include "identity-sync.rabbitmq.definitions" . | quote }}
{{- end }}

{{/* Variables of the broker: the root. */}}
{{- define "identity-sync.rabbitmq.serverEnv" -}}
- name: HOME
  value: /var/lib/rabbitmq
# The name is part of the data's path: one that does not follow the pod's.
- name: RABBITMQ_NODENAME
  value: rabbit@localhost
- name: RABBITMQ_CONFIG_FILE
  value: /etc/identity-sync/rabbitmq.conf
- name: RABBITMQ_ENABLED_PLUGINS_FILE
  value: /etc/identity-sync/enabled_plugins
- name: RABBITMQ_LOGS
  value: "-"
# Erlang makes a table of as many ports as the limit of open files allows: gigabytes on some nodes.
- name: ERL_MAX_PORTS
  value: "65536"
{{- end }}
