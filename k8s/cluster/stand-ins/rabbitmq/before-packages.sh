#!/bin/sh
# Run by mmdebstrap before the packages: they take a user of this name as it is, and the official image's has this id.
set -eu
root=$1
echo 'rabbitmq:x:999:999::/var/lib/rabbitmq:/usr/sbin/nologin' >> "$root/etc/passwd"
echo 'rabbitmq:x:999:' >> "$root/etc/group"
