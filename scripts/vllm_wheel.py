"""A vLLM wheel, from pip's indexes or from disk, for check_vllm.py and vllm_overlay.py."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "wheels"


class NoWheel(Exception):
    """The wheel cannot be had here."""


def wheel(version: str) -> Path:
    """vLLM's CUDA wheel of a version (300 to 500 MB, downloaded once; nothing of it is run).

    Raises:
        NoWheel: pip finds or reaches none.
    """
    pattern = f"vllm-{version}-*.whl"
    if not any(FOLDER.glob(pattern)):
        print(f"downloading vllm {version}", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        result = subprocess.run([*pip, "--dest", str(FOLDER), f"vllm=={version}"], capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip() or "pip failed").splitlines()[-1]
            raise NoWheel(f"vllm {version} cannot be downloaded: {reason}")
    return next(FOLDER.glob(pattern))
