"""What annotators said: a file each, in which every click is a line that is never changed."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Span, Text, Verdict

NAME = re.compile(r"[\w.-]+")


class Opinion(BaseModel):
    """What a person thinks of an answer; `unknown` is a skip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Verdict
    mistake: Span | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.mistake is not None and self.verdict != Verdict.wrong:
            raise ValueError(f"mistake is given but verdict is {self.verdict.value}")
        return self


class Click(BaseModel):
    """A line of an annotator's file.

    Attributes:
        id: the answer's.
        opinion: the opinion from now on; None: none again.
        undoes: whether this takes the click before it back.
        time: UTC, to the second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text
    opinion: Opinion | None = None
    undoes: bool = False
    time: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))


def folder_of(court: Path) -> Path:
    """Where the annotations of a court file lie: a folder beside it."""
    return court.with_name(f"{court.stem}.annotations")


def read_opinions(court: Path) -> dict[str, dict[str, Opinion]]:
    """Everyone's opinions: by annotator, then by the answer's id. Skips are left out.

    Raises:
        JudgeError: a file of the folder is damaged.
    """
    opinions = {}
    for path in sorted(folder_of(court).glob("*.jsonl")):
        history = _History()
        for click in records.read(path, Click):
            history.follow(click)
        opinions[path.stem] = {id: opinion for id, opinion in history.now.items() if opinion.verdict != Verdict.unknown}
    return opinions


class Notebook:
    """One annotator's opinions, on disk before the call returns.

    Attributes:
        now: the opinions by the answer's id, skips included.

    Raises:
        JudgeError: the annotator's name makes no file name.
        JudgeError: the file is damaged, cannot be written, or is open in another process.
    """

    def __init__(self, court: Path, annotator: str):
        if not NAME.fullmatch(annotator) or annotator.startswith("."):
            raise JudgeError(f"an annotator's name is of letters, digits, '-', '_' and '.', found {annotator!r}.")
        path = folder_of(court) / f"{annotator}.jsonl"
        self._appender = records.Appender[Click](path, durable=True)
        self._history = _History()
        try:
            for click in records.read(path, Click):
                self._history.follow(click)
        except JudgeError:
            self._appender.close()
            raise
        self.now = self._history.now

    def say(self, id: str, opinion: Opinion) -> None:
        """Keeps an opinion, in the place of an earlier one of this answer."""
        self._keep(Click(id=id, opinion=opinion))

    def undo(self) -> str | None:
        """Takes the last click back. Returns the id of its answer, None where there is nothing to take back."""
        if not self._history.past:
            return None
        id, before = self._history.past[-1]
        self._keep(Click(id=id, opinion=before, undoes=True))
        return id

    def close(self) -> None:
        """Releases the file."""
        self._appender.close()

    def _keep(self, click: Click) -> None:
        self._appender.append(click)
        self._history.follow(click)


class _History:
    """Clicks in order: the opinions now, and what an undo goes back to."""

    def __init__(self) -> None:
        self.now: dict[str, Opinion] = {}
        self.past: list[tuple[str, Opinion | None]] = []

    def follow(self, click: Click) -> None:
        if click.undoes:
            self.past.pop()
        else:
            self.past.append((click.id, self.now.get(click.id)))
        if click.opinion is None:
            self.now.pop(click.id, None)
        else:
            self.now[click.id] = click.opinion


def collect(answers: list[Answer], opinions: dict[str, dict[str, Opinion]]) -> tuple[list[Answer], dict[str, int]]:
    """Carries opinions over into the answers.

    Where all who judged an answer agree on its verdict it is theirs, with the mistake that begins first; where they do
    not, the answer keeps the label that it had. All opinions are kept in `metadata.opinions`.

    Returns:
        The answers, and the numbers of `labelled` and `disputed` ones.
    """
    counts = {"labelled": 0, "disputed": 0}
    collected = []
    for answer in answers:
        said = {name: by_id[answer.id] for name, by_id in opinions.items() if answer.id in by_id}
        verdicts = {opinion.verdict for opinion in said.values()}
        kept = {name: opinion.model_dump(mode="json", exclude_none=True) for name, opinion in said.items()}
        if not said:
            collected.append(answer)
        elif len(verdicts) > 1:
            counts["disputed"] += 1
            collected.append(answer.model_copy(update={"metadata": {**answer.metadata, "opinions": kept}}))
        else:
            counts["labelled"] += 1
            mistakes = [opinion.mistake for opinion in said.values() if opinion.mistake is not None]
            first = min(mistakes, key=lambda span: span.start, default=None)
            collected.append(answer.labelled(verdicts.pop(), " and ".join(sorted(said)), first, opinions=kept))
    return collected, counts
