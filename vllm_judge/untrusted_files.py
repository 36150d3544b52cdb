"""Text and JSON from files that strangers may have written: bounded, and without two meanings."""

import json
from pathlib import Path
from typing import Any

# A thousand times what a head or a deployment has to say.
MAX_BYTES = 2**20


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than MAX_BYTES or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    return data.decode("utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        OSError, ValueError: as `read_text`.
        ValueError: it is no JSON, or nested too deeply; or an object of it has a key twice, of which readers may take
            either.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found
