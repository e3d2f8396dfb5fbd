#!/bin/sh
# The first process of the node's namespaces (network, mounts, processes). Whatever it mounts or configures ends with them.
set -eu
state=$1

mount --make-rshared /
# Hides the machine's own containerd, CNI and lock files.
mount -t tmpfs -o mode=0755 tmpfs /run
for dir in /var/lib/kubelet /var/lib/cni /var/log; do
    mkdir -p "$dir" "$state$dir"
    mount --bind "$state$dir" "$dir"
done
# kubelet insists on its own values of these, which are the whole kernel's: it gets copies to write to.
for tunable in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    mkdir -p "/run/sysctl/${tunable%/*}"
    cat "/proc/sys/$tunable" > "/run/sysctl/$tunable"
    mount --bind "/run/sysctl/$tunable" "/proc/sys/$tunable"
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward

touch "$state/node-is-ready"
# While the shell waits it also reaps the orphans of the namespace.
while :; do sleep 60; done
