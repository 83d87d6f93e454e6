#!/bin/sh
# Installs the programs that the bench measures against: Debian packages, nothing else. One that can't be had is left out of the table.
set -eu
missing=
for package in openssl rsync qemu-utils libnbd-bin restic borgbackup virtnbdbackup; do
  [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "bench: as root it could be measured against$missing too" >&2
  exit 0
fi
echo "bench: installing$missing" >&2
apt-get -qq update || true # one broken source must not stand in the way
for package in $missing; do
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "$package" > /dev/null ||
    echo "bench: $package could not be installed" >&2
done
