#!/usr/bin/env bash
# Sets up what the tests need and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
# Two files at a time; on a GPU one, since an engine takes its memory.
[ -e /dev/nvidia0 ] || set -- -n 2 --dist loadfile "$@"
exec .venv/bin/python -m pytest "$@"
