#!/bin/sh
# The first process of a lab host, in namespaces of its own (mount, PID, network, UTS). Gives the host a root of its own, made of the
# machine's programs (/usr, /opt, read as they are) and of the host's own /etc, /var, /run, /root, /srv, /shared; then starts its daemons.
# Usage: host-init.sh <the host's directory>. The directory is also what identifies this process to the lab.
set -eu
H=$1
. "$H/host.env" # HOST_NAME ADDRESS CHECKOUT LAB_DIR NODE_PREFIX ROLE STORE_OPTIONS CACHE

mount --make-rprivate / # nothing that is mounted here may reach the machine
N=$H/root
mkdir -p "$N"
mount -t tmpfs -o mode=755,size=64m lab-root "$N"

for d in bin sbin lib lib32 lib64 libx32 usr opt; do
  if [ -L "/$d" ]; then cp -a "/$d" "$N/$d"
  elif [ -d "/$d" ]; then mkdir "$N/$d"; mount --rbind "/$d" "$N/$d"
  fi
done
mkdir -p "$N/etc" "$N/var" "$N/run" "$N/root" "$N/srv/dr" "$N/shared" "$N/tmp" "$N/mnt" "$N/media" "$N/home" "$N/proc" "$N/sys" "$N/dev"
mount --rbind /dev "$N/dev"
mount -t tmpfs -o mode=1777 lab-shm "$N/dev/shm"
mount -t tmpfs -o mode=1777 lab-tmp "$N/tmp"
mount -t tmpfs -o mode=755 lab-run "$N/run"
mount -t proc proc "$N/proc"
mount -t sysfs sysfs "$N/sys"
mount --bind "$H/boot_id" "$N/proc/sys/kernel/random/boot_id"

# /etc: what programs need of the machine's, no secrets, and the host's own.
for f in passwd group nsswitch.conf ld.so.cache ld.so.conf ld.so.conf.d alternatives ssl localtime os-release debian_version services protocols \
         mke2fs.conf xattr.conf login.defs mime.types modprobe.d fuse.conf lvm sasl2 terminfo swtpm_setup.conf swtpm-localca.conf swtpm-localca.options; do
  [ ! -e "/etc/$f" ] || cp -a "/etc/$f" "$N/etc/$f"
done
ln -s /proc/self/mounts "$N/etc/mtab"
cp -a "$H/etc/." "$N/etc/"
mkdir -p "$N/etc/libvirt" "$N/etc/dr"
mount --bind "$H/etc-libvirt" "$N/etc/libvirt"
mount --bind "$H/etc-dr" "$N/etc/dr"
chmod 600 "$N/etc/ssh/ssh_host_ed25519_key"

mkdir -p "$N/var/lib/libvirt" "$N/var/lib/dr-engine" "$N/var/log/guests" "$N/var/cache/libvirt/qemu/capabilities" "$N/var/tmp"
ln -s /run "$N/var/run"
ln -s /run/lock "$N/var/lock"
mkdir -p "$N/var/lib/swtpm-localca" # signs guests' TPMs, as the user that runs them
chown tss:tss "$N/var/lib/swtpm-localca" 2> /dev/null || true # no swtpm here
mount --bind "$H/var-lib-libvirt" "$N/var/lib/libvirt"
mount --bind "$H/dr-engine" "$N/var/lib/dr-engine"
mount --bind "$H/log" "$N/var/log"
mount --bind "$CACHE/libvirt-capabilities" "$N/var/cache/libvirt/qemu/capabilities"
mount --bind "$H/tmp" "$N/var/tmp"
mount --bind "$H/home" "$N/root"
mount --bind "$H/shared" "$N/shared"
chmod 700 "$N/root" "$N/root/.ssh"
[ ! -f "$H/store.img" ] || mount -o "loop,$STORE_OPTIONS" "$H/store.img" "$N/srv/dr"

# dr and dr-activate are on the PATH, in front of what the machine has there.
mount -t overlay -o "ro,lowerdir=$H/bin:/usr/local/bin" lab-bin "$N/usr/local/bin"

# Node, the checkout and the lab's directory keep their paths.
for d in "$NODE_PREFIX" "$CHECKOUT" "$LAB_DIR" "$CACHE"; do
  [ "$d" != /usr ] || continue
  mkdir -p "$N$d"
  mount --bind "$d" "$N$d"
done

cd "$N"
mkdir .old
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
# QEMU lives in a mount namespace below ours and must see what is mounted and unmounted later.
mount --make-rshared /

hostname "$HOST_NAME"
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up

mkdir -p /run/lock /run/sshd
/usr/sbin/sshd -f /etc/ssh/sshd_config -E /var/log/sshd.log
if [ "$ROLE" != head ]; then
  virtlogd -d
  libvirtd -d
  while [ ! -S /run/libvirt/libvirt-sock ] || [ ! -S /run/libvirt/virtlogd-sock ]; do sleep 0.02; done
fi
: > "$H/ready"

# Waits for all children, adopted ones included, so that no zombie stays.
while :; do
  sleep 86400 &
  wait
done
