#!/bin/bash
# The demo needs root for namespaces, loop devices and mounts; asks sudo for it if need be. `--clean` removes everything that it made.
set -euo pipefail
cd "$(dirname "$0")/.."
become=()
# sudo keeps little of the environment: what the demo looks at is handed over.
[ "$(id -u)" = 0 ] || become=(sudo env ${DR_LAB_DIR:+DR_LAB_DIR="$DR_LAB_DIR"} ${TERM:+TERM="$TERM"})
if [ "${1:-}" = --clean ] && [ ! -e build/test/lab/demo.js ]; then
  echo 'Nothing is built, so there is nothing to remove. (After make clean: make build demo-clean.)'
  exit 0
fi
exec "${become[@]}" "$(command -v node)" build/test/lab/demo.js "$@"
