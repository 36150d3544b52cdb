"""The rows that questions are made of: of a JSON or JSONL file, or of a Hugging Face dataset."""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.records import json_value

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def is_file(source: str) -> bool:
    """Whether a source is a file, or named like one, and no dataset."""
    return source.endswith(SUFFIXES) or Path(source).is_file()


def rows_of(source: str, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a JSON or JSONL file, or of a dataset (a folder or a name on the Hub).

    Raises:
        JudgeError: there is no such file or dataset, it cannot be read, or holds no row.
    """
    empty = True
    for row in _json_rows(Path(source)) if is_file(source) else _dataset_rows(source, config, split):
        empty = False
        yield row
    if empty:
        raise JudgeError(f"{source} holds no row.")


def _dataset_rows(source: str, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise JudgeError("datasets is not installed: pip install 'vllm-judge-decoding[court]'.") from None
    try:
        yield from load_dataset(source, config, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        place = "" if Path(source).is_dir() else "there is no such folder, and of the Hub: "
        reason = str(error).strip().splitlines()[0]
        raise JudgeError(f"the dataset {source} (split {split}) cannot be loaded: {place}{reason}") from None


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.name.endswith(SUFFIXES):
        raise JudgeError(f"{path} is none of {', '.join(SUFFIXES)}: save it as one of them.")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path} cannot be read: {error}.") from None
    if text.lstrip().startswith("["):
        rows = [(0, text)]
    else:
        rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, row in rows:
        try:
            value = json_value(row)
        except ValueError as error:
            raise JudgeError(f"{path}, {f'line {number}: ' if number else ''}not JSON: {error}.") from None
        yield from value if isinstance(value, list) else [value]
