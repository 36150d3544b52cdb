#!/usr/bin/env bash
# Installs, then serves the embedded models with `vllm serve` (plain, strict, judged) and solves problems over HTTP.
# Options: see scripts/quickstart.py, e.g. --json PATH.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup.sh"
exec "$root/.venv/bin/python" "$root/scripts/quickstart.py" "$@"
