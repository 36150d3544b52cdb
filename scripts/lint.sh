#!/usr/bin/env bash
# What reads the code without running it: style, types, and that imports point down (pyproject.toml has the settings).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
