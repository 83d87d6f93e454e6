#!/bin/sh
# The first process of a lab's switch: a network namespace with the bridge that all hosts are plugged into. Virtual machines of the lab also run here.
# Usage: switch-init.sh <the switch's directory>
set -eu
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip address add 10.77.0.1/24 dev br0 # how the machine itself reaches virtual machines
: > "$1/ready"
while :; do
  sleep 86400 &
  wait
done
