#!/bin/sh
# Goes on where vm/init ends: disks, network, daemons. Runs as the first process of the virtual machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
# The checkout may lie where the machine's own files are covered: in /tmp, or in root's home.
CHECKOUT=$(cd "$(dirname "$0")/../../.." && pwd)
mkdir -p /.checkout
mount --bind "$CHECKOUT" /.checkout
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
ln -sf /proc/self/fd /dev/fd

# LVM and libvirt wait for what udev makes in /dev; nobody else would activate volume groups here. Only the rules for block devices: each event costs
# a second under emulation.
for rules in /lib/udev/rules.d/*.rules; do
  case ${rules##*/} in 50-udev-default.rules | 55-dm.rules | 56-lvm.rules | 60-persistent-storage*.rules | 95-dm-notify.rules) ;; *) rm "$rules" ;; esac
done
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --subsystem-match=block # a network card would get another name
udevadm settle
vgchange --quiet --quiet -aay > /dev/null 2>&1

# The first disk keeps what must survive a power cut; the second is the store.
mkdir -p /run/state
mount -o noatime /dev/vda /run/state || { echo 'NO STATE DISK'; exec sh; }
. /run/state/host.env
cp -a /run/state/etc/. /etc/
rm -f /etc/ssh/sshd_config.d/*
mkdir -p /srv/dr /shared /etc/dr /etc/libvirt /var/lib/libvirt /var/lib/dr-engine /var/tmp /run/lock /run/sshd
for pair in etc-libvirt:/etc/libvirt etc-dr:/etc/dr var-lib-libvirt:/var/lib/libvirt dr-engine:/var/lib/dr-engine log:/var/log tmp:/var/tmp home:/root shared:/shared; do
  mount --bind "/run/state/${pair%%:*}" "${pair#*:}"
done
[ -e "$CHECKOUT/package.json" ] || { mkdir -p "$CHECKOUT" && mount --bind /.checkout "$CHECKOUT"; }
chmod 700 /root /root/.ssh
chmod 600 /etc/ssh/ssh_host_ed25519_key /root/.ssh/id_ed25519
[ ! -b /dev/vdb ] || mount -o noatime /dev/vdb /srv/dr
cp /run/state/bin/* /usr/local/bin/

hostname "$HOST_NAME"
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
/usr/sbin/sshd -f /etc/ssh/sshd_config -E /var/log/sshd.log
virtlogd -d
libvirtd -d
echo 'LAB HOST IS UP'
while :; do
  sleep 86400 &
  wait
done
