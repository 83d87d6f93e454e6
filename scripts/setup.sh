#!/bin/bash
# Installs what is missing: Debian packages (as root, or with sudo) and the project's npm modules. What is there already is left alone, and no
# service is started or enabled on this machine that was not before.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  qemu-system-x86 qemu-system-common qemu-utils ovmf swtpm swtpm-tools          # guests and their images
  libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients libxml2-utils
  openssh-server openssh-client iproute2 procps kmod fuse3                       # hosts of the lab
  lvm2 thin-provisioning-tools udev sudo                                        # volumes
  util-linux util-linux-extra mount e2fsprogs xfsprogs btrfs-progs dosfstools attr diffutils tar
  nasm syslinux mtools cpio                                                      # guests are built from source
)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
say() { printf 'setup: %s\n' "$*"; }

need_node='process.exit(process.versions.node.split(".").map(Number).reduce((v, n, i) => v + n * [1e4, 1, 0][i], 0) >= 200019 ? 0 : 1)'
if [ "${1:-}" != --as-root ] && { ! command -v node > /dev/null || ! node -e "$need_node"; }; then
  say "Node 20.19 or newer is needed; $(command -v node > /dev/null && node --version || echo 'none') is here. See https://nodejs.org" >&2
  exit 1
fi

missing=()
if command -v dpkg-query > /dev/null; then
  for package in "${packages[@]}"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing+=("$package")
  done
else
  say 'this is not Debian: install by hand what the lab needs; see docs/development.md'
fi

install_packages() {
  local before
  # apt starts what it installs, unless this file says no.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f "$log"; rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  enabled() { # units that start at boot
    ! command -v systemctl > /dev/null || { systemctl --root=/ list-unit-files --state=enabled --no-legend 2> /dev/null || true; } | awk '{ print $1 }' | sort
  }
  before=$(enabled)
  apt-get -qq update || true # one broken source must not stand in the way; what is really missing shows at once
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confold install "${missing[@]}"
  # And what it enabled would start with the next boot.
  comm -13 <(printf '%s\n' "$before") <(enabled) | while read -r unit; do
    [ -z "$unit" ] || systemctl --root=/ --quiet disable "$unit"
  done
}
if [ "${1:-}" = --as-root ]; then # this script, called by itself
  [ ${#missing[@]} -eq 0 ] || install_packages
  exit 0
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then become=(env)
  elif command -v sudo > /dev/null; then become=(sudo); [ -t 0 ] || become+=(-n)
  else become=(false)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  if ! "${become[@]}" bash scripts/setup.sh --as-root > "$log" 2>&1 < /dev/null; then
    cat "$log" >&2
    say "could not install: ${missing[*]}. Tests that need them are skipped; install them as root with: apt-get install --no-install-recommends ${missing[*]}" >&2
  fi
fi

# npm leaves node_modules/.package-lock.json when it is done.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  say 'npm ci'
  npm ci --no-audit --no-fund --loglevel=error > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
  touch node_modules/.package-lock.json
fi
