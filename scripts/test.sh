#!/usr/bin/env bash
# Sets up what the tests need and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
scripts/add_tritons.sh
exec .venv/bin/python -m pytest -n auto --dist loadfile "$@"
