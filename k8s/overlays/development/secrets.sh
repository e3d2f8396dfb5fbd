#!/bin/sh
# Makes the Secrets of the development overlay; those that are there stay as they are.
set -eu
# Without it the values below would be empty, and stay so: a failed substitution in an argument stops no script.
command -v openssl >/dev/null || { echo "openssl is not installed" >&2; exit 1; }
namespace=${1:-identity-sync}

random() {
    openssl rand -hex 16
}

# Lines KEY=VALUE on stdin, so that no value is on a command line.
make() {
    if kubectl -n "$namespace" get secret "$1" >/dev/null 2>&1; then
        echo "secret/$1 is there already" >&2
        cat >/dev/null
    else
        kubectl -n "$namespace" create secret generic "$1" --from-env-file=/dev/stdin
    fi
}

printf 'admin-token=%s\nsealing-keys=1:%s\n' "$(random)" "$(openssl rand -base64 32)" | make identity-sync-server-b
printf 'token=%s\n' "$(random)" | make identity-sync-service-token

for user in server-a server-b user-service auth-service; do
    password=$(random)
    printf '%s-password=%s\n' "$user" "$password"
    printf '%s-url=amqp://%s:%s@identity-sync-rabbitmq:5672/\n' "$user" "$user" "$password"
done | make identity-sync-rabbitmq

{
    printf 'postgres-password=%s\n' "$(random)"
    for pair in server-b:identity_sync user-service:user_service; do
        user=${pair%:*} database=${pair#*:} password=$(random)
        printf '%s-password=%s\n' "$user" "$password"
        printf '%s-url=postgres://%s:%s@identity-sync-postgresql:5432/%s\n' "$user" "$database" "$password" "$database"
    done
} | make identity-sync-postgresql
