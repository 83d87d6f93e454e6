#!/bin/bash
# The demo needs root for namespaces, loop devices and mounts; asks sudo for it if need be. `--clean` removes everything that it made.
set -euo pipefail
cd "$(dirname "$0")/.."
become=()
[ "$(id -u)" = 0 ] || become=(sudo)
if [ "${1:-}" = --clean ]; then
  [ ! -e build/test/lab/demo.js ] || "${become[@]}" "$(command -v node)" build/test/lab/demo.js --clean
  "${become[@]}" rm -f .sandbox/dr.yaml
  "${become[@]}" rmdir .sandbox 2> /dev/null || true # something else of the sandbox is in use, or it is gone
  exit 0
fi
exec "${become[@]}" "$(command -v node)" build/test/lab/demo.js
