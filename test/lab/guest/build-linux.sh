#!/bin/bash
# Builds the Linux guest's boot disk from Debian packages that are downloaded and unpacked, not installed.
# Usage: build-linux.sh <directory>; leaves there: vmlinuz, initrd, linux.img (a bootable disk), packages/ (what was unpacked)
set -euo pipefail
sources=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out/debs" "$out/packages"
cd "$out"

fetch() { # package
  [ ! -e "$out/packages/.$1" ] || return 0
  (cd debs && apt-get -qq -o APT::Sandbox::User=root download "$1")
  dpkg-deb -x debs/"$1"_*.deb packages
  rm -f debs/"$1"_*.deb
  : > "packages/.$1"
}
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$image" ] || { echo "no package linux-image-cloud-amd64; run apt-get update" >&2; exit 1; }
fetch "$image"
fetch busybox-static
fetch qemu-guest-agent
version=${image#linux-image-}
echo "$version" > kernel-version
cp "packages/boot/vmlinuz-$version" vmlinuz

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,proc,sys,dev,run,data,modules,var/run,etc}
cp "$(find packages -path '*bin/busybox' -type f | head -n 1)" "$root/bin/busybox"
agent=packages/usr/sbin/qemu-ga
cp "$agent" "$root/sbin/qemu-ga"
ldd "$agent" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cp "$sources/linux-init" "$root/init"
cp "$sources/linux-shutdown" "$root/sbin/shutdown"
chmod 755 "$root/init" "$root/sbin/shutdown"
echo 'root:x:0:0:root:/:/bin/sh' > "$root/etc/passwd"

[ -e "packages/lib/modules/$version/modules.dep" ] || depmod -b packages "$version"
for module in virtio_pci virtio_blk virtio_console ext4 crc32c_generic button evdev; do
  modprobe --dirname packages --set-version "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
  cp "$file" "$root/modules/"
  echo "${file##*/}" >> "$root/modules/order"
done
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > initrd.new
mv initrd.new initrd

# A FAT file system with no partition table around it, made and filled without mounting.
rm -f linux.img.new
truncate -s 40M linux.img.new
mkfs.vfat -n BOOT linux.img.new > /dev/null
syslinux --install linux.img.new
printf 'DEFAULT linux\nPROMPT 0\nLABEL linux\n  KERNEL vmlinuz\n  INITRD initrd\n  APPEND console=ttyS0 quiet mitigations=off tsc=unstable panic=5\n' > syslinux.cfg
mcopy -i linux.img.new vmlinuz initrd syslinux.cfg ::
mv linux.img.new linux.img
