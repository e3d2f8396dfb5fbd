#!/bin/sh
# Run by mmdebstrap after the packages: the files and modes that the official image has.
set -eu
root=$1
sed -i "s/^#*listen_addresses = .*/listen_addresses = '*'/" "$root/usr/share/postgresql/17/postgresql.conf.sample"
mkdir -p "$root/docker-entrypoint-initdb.d" "$root/var/lib/postgresql/data" "$root/var/run/postgresql"
chown -R 999:999 "$root/var/lib/postgresql" "$root/var/run/postgresql"
chmod 1777 "$root/var/lib/postgresql/data"
chmod 3777 "$root/var/run/postgresql"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt
