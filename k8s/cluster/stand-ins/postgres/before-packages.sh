#!/bin/sh
# Run by mmdebstrap before the packages: they take a user of this name as it is, and the official image's has this id.
set -eu
root=$1
echo 'postgres:x:999:999::/var/lib/postgresql:/bin/bash' >> "$root/etc/passwd"
echo 'postgres:x:999:' >> "$root/etc/group"
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' > "$root/etc/postgresql-common/createcluster.conf"
