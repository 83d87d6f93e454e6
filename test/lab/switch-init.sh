#!/bin/sh
# The first process of a lab's switch: a network namespace with the bridge that all hosts are plugged into. Virtual machines of the lab also run here.
# Usage: switch-init.sh <the switch's directory>
set -eu
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
: > "$1/ready"
while :; do
  sleep 86400 &
  wait
done
