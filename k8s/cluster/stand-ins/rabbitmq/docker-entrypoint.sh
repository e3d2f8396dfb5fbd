#!/bin/sh
# The entry point of the stand-in: as the official image's, it leaves root behind. The server itself reads
# RABBITMQ_DEFAULT_USER and the like.
set -eu
if [ "$1" = rabbitmq-server ] && [ "$(id -u)" = 0 ]; then
    chown -R 999:999 /var/lib/rabbitmq
    exec setpriv --reuid 999 --regid 999 --clear-groups "$0" "$@"
fi
exec "$@"
