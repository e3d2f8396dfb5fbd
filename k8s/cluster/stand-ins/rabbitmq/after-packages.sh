#!/bin/sh
# Run by mmdebstrap after the packages: the files and modes that the official image has.
set -eu
root=$1
rm -f "$root/var/lib/rabbitmq/.erlang.cookie"
mkdir -p "$root/etc/rabbitmq/conf.d"
printf 'loopback_users.guest = false\nlog.console = true\n' > "$root/etc/rabbitmq/conf.d/10-defaults.conf"
echo '[rabbitmq_prometheus].' > "$root/etc/rabbitmq/enabled_plugins"
for dir in /etc/rabbitmq /var/lib/rabbitmq /var/log/rabbitmq; do
    chown -R 999:999 "$root$dir"
    chmod 1777 "$root$dir"
done
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt
