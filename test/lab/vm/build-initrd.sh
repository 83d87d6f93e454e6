#!/bin/bash
# Builds the initrd of the lab's virtual machines from what guest/build-linux.sh has unpacked. Usage: build-initrd.sh <that directory>
set -euo pipefail
sources=$(cd "$(dirname "$0")" && pwd)
cd "$1"
version=$(cat kernel-version)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,proc,sys,dev,lower,rw,modules}
cp "$(find packages -path '*bin/busybox' -type f | head -n 1)" "$root/bin/busybox"
cp "$sources/init" "$root/init"
chmod 755 "$root/init"
for module in virtio_pci virtio_blk virtio_net virtiofs overlay crc32c_generic ext4 xfs fuse loop tun sch_tbf \
              dm-mod dm-snapshot dm-thin-pool dm-flakey dm-log-writes; do
  modprobe --dirname packages --set-version "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
  cp "$file" "$root/modules/"
  echo "${file##*/}" >> "$root/modules/order"
done
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > vm-initrd.new
mv vm-initrd.new vm-initrd
