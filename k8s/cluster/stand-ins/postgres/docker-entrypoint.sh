#!/bin/bash
# The entry point of the stand-in: as the official image's, it leaves root behind, and fills an empty PGDATA as
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (or their _FILE), POSTGRES_INITDB_ARGS and
# /docker-entrypoint-initdb.d say.
set -euo pipefail

# The value of a variable, of the file that <variable>_FILE names, or a default.
setting() {
    local file_variable="$1_FILE"
    if [ -n "${!file_variable:-}" ]; then
        cat "${!file_variable}"
    else
        printf %s "${!1:-$2}"
    fi
}

sql() {
    PGHOST='' psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --quiet --username "$POSTGRES_USER" "$@"
}

run_scripts() {
    local script
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
            *.sql) sql --dbname "$POSTGRES_DB" --file "$script" ;;
            *.sql.gz) gunzip --stdout "$script" | sql --dbname "$POSTGRES_DB" ;;
        esac
    done
}

initialise() {
    POSTGRES_USER=$(setting POSTGRES_USER postgres)
    POSTGRES_PASSWORD=$(setting POSTGRES_PASSWORD '')
    POSTGRES_DB=$(setting POSTGRES_DB "$POSTGRES_USER")
    export POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB PGPASSWORD="$POSTGRES_PASSWORD"
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$method" != trust ]; then
        echo 'Set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE: the database is empty and its superuser needs one.' >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # several options
    initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "$POSTGRES_PASSWORD") \
        ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"

    shift
    pg_ctl --pgdata "$PGDATA" --options "$(printf '%q ' "$@" -c listen_addresses=)" --wait start
    if [ "$POSTGRES_DB" != postgres ]; then
        sql --dbname postgres --set name="$POSTGRES_DB" <<< 'CREATE DATABASE :"name"'
    fi
    run_scripts
    pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
    unset PGPASSWORD
}

if [ "${1:0:1}" = - ]; then
    set -- postgres "$@"
fi
if [ "$1" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA"
        chown -R 999:999 "$PGDATA" /var/run/postgresql
        exec setpriv --reuid 999 --regid 999 --clear-groups "$0" "$@"
    fi
    mkdir -p "$PGDATA"
    # A volume's fsGroup widens the mode at each mount, and the server refuses to start on any other than its own.
    chmod 0700 "$PGDATA" || :
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        initialise "$@"
    fi
fi
exec "$@"
