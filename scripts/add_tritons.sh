#!/usr/bin/env bash
# Adds, beside .venv's own, the Triton versions that other supported engines bring (tritons.txt): the compile gate
# (tests/unit/kernels/test_compile_gate.py) compiles the kernels with each. Only tests need them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
while read -r version; do
  folder=.venv/tritons/$version
  if [ -d "$folder" ] || .venv/bin/python -m pip show triton 2>/dev/null | grep -qx "Version: $version"; then continue; fi
  .venv/bin/python -m pip install -q --no-deps --target "$folder.part" "triton==$version" && mv "$folder.part" "$folder" ||
    echo "setup: Triton $version could not be installed: the tests that compile with it will be skipped" >&2
done <scripts/tritons.txt
