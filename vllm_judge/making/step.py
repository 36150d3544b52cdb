"""A step: a command, and a place for what it makes whose name says what it is made from."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

OUTPUT = "{output}"
# The paces of the two steps that a refused promise is about.
PROMISE, SPEED = "promise", "speed"
# What a step's output is known again by: not the card, into which `push` writes.
COUNTED = (".json", ".jsonl", ".safetensors", ".gz", ".bin", ".py", ".jinja")


class Record(BaseModel):
    """What is known of a step, in a file beside its output.

    Attributes:
        finished: whether the command has ended by itself, and well, or as a refusal.
        made: the fingerprint of its output then.
        seconds: of all runs so far; done, total: how far it is, as the command itself counts.
        timed, timed_seconds: the items that were done under a clock, and how long they took.
        said: what a command that refused said.
    """

    model_config = ConfigDict(extra="ignore")

    finished: bool = False
    made: str = ""
    seconds: float = 0.0
    done: int = 0
    total: int = 0
    timed: int = 0
    timed_seconds: float = 0.0
    said: str = ""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what it does, for people.
        command: the words behind `vllm-judge`.
        output: the file or folder that it makes.
        record_file: where its record is kept.
        pace: steps of the same pace take as long for an item.
        count: items that it is expected to work on; None: not known yet.
        unit: what they are.
        watched: the file or folder whose lines are the items that are there already.
    """

    name: str
    command: list[str]
    output: Path
    record_file: Path
    pace: str
    count: int | None
    unit: str
    watched: Path

    @property
    def called(self) -> str:
        """The command's name, such as `train hidden-states`."""
        return " ".join(takewhile(re.compile("[a-z][a-z-]+").fullmatch, self.command))

    def record(self) -> Record:
        """What is known of it; nothing where there is no whole record."""
        try:
            return Record.model_validate_json(self.record_file.read_bytes())
        except (OSError, ValueError):
            return Record()

    def keep(self, record: Record) -> None:
        """Writes the record, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        self.record_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.record_file.with_suffix(".part")
        temporary.write_text(record.model_dump_json(), encoding="utf-8")
        temporary.replace(self.record_file)

    def is_done(self) -> bool:
        """Whether it ended, and what it made is as it was then."""
        record = self.record()
        return record.finished and record.made == fingerprint(self.output)


@dataclass
class Steps:
    """Steps one after the other; `work` holds what they make, commands run in `home`."""

    work: Path
    home: Path
    steps: list[Step] = field(default_factory=list)

    def place(self, name: str, words: Sequence[str], inputs: Iterable[str]) -> Path:
        """The place of what is made by these words from these inputs: other words or inputs have another one.

        Words that name what an earlier step makes stand for all that it was made from, since their names do.
        """
        made_from = [
            [word.replace(str(self.work), "") for word in words],
            [_identity(self.home, one) for one in inputs],
        ]
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:10]
        stem, dot, suffix = name.partition(".")
        return self.work / f"{stem}-{digest}{dot}{suffix}"

    def add(
        self,
        name: str,
        words: Sequence[str],
        file: str,
        *,
        how: Sequence[str] = (),
        inputs: Iterable[str] = (),
        output: Path | None = None,
        pace: str | None = None,
        count: int | None = None,
        unit: str = "answers",
        watched: Path | None = None,
    ) -> Path:
        """Adds a step and returns what it makes.

        Args:
            words: of the command; OUTPUT in one is the place of what it makes.
            file: the place's name, to which is added what tells it from others of its kind.
            how: options that decide how fast a result comes, not which.
            inputs: files, folders and names outside `work` that the result depends on.
            output: the place, where it is not in `work`.
            pace, count, unit, watched: see Step; a step without a pace of others has its name's.
        """
        place = self.place(file, words, inputs)
        made = output or place
        command = [word.replace(OUTPUT, str(made)) for word in (*words, *how)]
        record = self.work / "steps" / f"{place.name}.json"
        self.steps.append(Step(name, command, made, record, pace or name, count, unit, watched or made))
        return made


def fingerprint(path: Path) -> str:
    """Names, sizes and times of a file, or of those in a folder: changes where any of them does; "" where none is."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.suffix in COUNTED)
    stats = [(str(one.relative_to(path.parent)), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest() if stats else ""


def lines(path: Path) -> int:
    """Lines of a file, or of the JSONL files in a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.jsonl")) if path.is_dir() else []
    return sum(file.read_bytes().count(b"\n") for file in files)


def _identity(home: Path, name: str) -> Any:
    """What a file, a folder or a name of elsewhere is: a small file is its text."""
    path = home / name
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return [name, fingerprint(path)] if os.sep in name and path.is_dir() else name
