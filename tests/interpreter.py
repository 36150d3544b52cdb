"""Triton chooses between interpreter and compiler when it is imported: a file of tests that needs the interpreter runs
itself again in a child process."""

import os
import subprocess
import sys

from environments import INTERPRETER

IN_CHILD = os.environ.get("TRITON_INTERPRET") == "1"


def run_in_interpreter(tests: str) -> None:
    """Runs a file of tests in the interpreter, and fails with its output where it fails."""
    child = subprocess.run(
        [sys.executable, "-m", "pytest", tests, "-q"],
        env=os.environ | INTERPRETER,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout[-20_000:] + child.stderr[-5_000:]
