#!/usr/bin/env bash
# Runs the tests that are marked every_vllm on another version of vLLM (see vllm_overlay.py), on a machine without a
# GPU: scripts/test_on_vllm.sh 0.33.0; further arguments go to pytest. Exit status 75: that version cannot be had here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=${1:?usage: scripts/test_on_vllm.sh VERSION [pytest arguments]}
shift
scripts/setup.sh
.venv/bin/python scripts/vllm_overlay.py "$version"
# The tests of each model runner share their engines, and so a process.
exec ".venv-vllm-$version/bin/python" -m pytest -m every_vllm -n 2 --dist loadgroup -o addopts="-ra --strict-markers" \
  tests/engine/test_invariants.py tests/unit/engine "$@"
