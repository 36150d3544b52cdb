"""Whether a file can be written, asked before the work whose result it is to hold."""

import os
from pathlib import Path

from vllm_judge.errors import JudgeError

CHOOSE = "choose another file with -o"


def check_writable(path: Path) -> None:
    """Makes the folder of a file that is there or not.

    Raises:
        JudgeError: it is no file, or it or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
    except OSError as error:
        raise JudgeError(f"{path} cannot be written: {error.filename}: {error.strerror}.") from None
    if there and not path.is_file():
        raise JudgeError(f"{path} is no file: {CHOOSE}.")
    for place in (path.parent, path) if there else (path.parent,):
        if not os.access(place, os.W_OK):
            raise JudgeError(f"{path} cannot be written: {place} is not yours to write to.")
