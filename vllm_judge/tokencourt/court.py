"""`court.jsonl`: answers with what is right and wrong in them, one a line."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.records import Problem


def _is_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character (a lone surrogate) at position {error.start}") from None
    return text


AnyText = Annotated[str, AfterValidator(_is_unicode)]
Text = Annotated[AnyText, Field(min_length=1)]


class Verdict(StrEnum):
    """What is known of an answer."""

    right = "right"
    wrong = "wrong"
    unknown = "unknown"


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: AnyText


class Span(BaseModel):
    """Characters [start, end) of an answer: Unicode code points, as Python counts them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(ge=0, strict=True)
    end: int = Field(ge=1, strict=True)

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end}) must be greater than start ({self.start})")
        return self


class Answer(BaseModel):
    """One answer to one question, and its label.

    Labels are characters, not tokens: they outlive any tokenizer (see `masks` for the way to tokens).

    Attributes:
        id: unique in its file.
        messages: the question as chat; the answer is the assistant's next message.
        answer: the answer's text.
        model: who wrote it.
        verdict: right, wrong or unknown. A wrong answer without `mistake` still has to be localised.
        mistake: the first mistake; only of wrong answers.
        labelled_from: the first character that the label speaks of. What stands before is context: an answer that
            continues a given beginning, or a beginning that another line labels already.
        labelled_by: a person's name or a method; needed where the verdict is known.
        metadata: anything else, kept as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text
    messages: list[Message] = Field(min_length=1)
    answer: AnyText
    model: Text
    verdict: Verdict = Verdict.unknown
    mistake: Span | None = None
    labelled_from: int = Field(default=0, ge=0, strict=True)
    labelled_by: Text | None = None
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        length = len(self.answer)
        if self.messages[-1].role == "assistant":
            raise ValueError("the last of messages is the assistant's: the answer itself goes into `answer`")
        if self.verdict != Verdict.unknown and self.labelled_by is None:
            raise ValueError(f"verdict is {self.verdict.value} but labelled_by is missing")
        if self.labelled_from > length:
            raise ValueError(f"labelled_from is {self.labelled_from}, beyond the answer's {length} characters")
        if self.mistake is None:
            return self
        if self.verdict != Verdict.wrong:
            raise ValueError(f"mistake is given but verdict is {self.verdict.value}: only a wrong answer has one")
        if self.mistake.end > length:
            raise ValueError(f"mistake.end is {self.mistake.end}, beyond the answer's {length} characters")
        if self.mistake.start < self.labelled_from:
            raise ValueError(f"mistake.start is {self.mistake.start}, before labelled_from ({self.labelled_from})")
        return self

    def labelled(self, verdict: Verdict, labelled_by: str | None, mistake: Span | None = None, **metadata: Any) -> Self:
        """The same answer with another label; `metadata` is added to its own.

        Raises:
            pydantic.ValidationError: the label does not fit the answer.
        """
        label = {"verdict": verdict, "mistake": mistake, "labelled_by": labelled_by}
        return type(self).model_validate(
            {**self.model_dump(exclude={"mistake"}), **label, "metadata": {**self.metadata, **metadata}}
        )


def read_court(path: Path) -> list[Answer]:
    """All answers of a court file.

    Raises:
        JudgeError: the file cannot be read, a line is bad, two lines have one id, or there is none.
    """
    answers = records.read(path, Answer)
    if not answers:
        raise JudgeError(f"{path} holds no answer.")
    records.refuse_repeated_ids(path, answers)
    return answers


def read_courts(paths: Sequence[Path]) -> list[Answer]:
    """All answers of several court files; an answer that two of them hold, id, text and label, is taken once.

    Raises:
        JudgeError: as `read_court`; or two files have different answers under one id.
    """
    answers: dict[str, Answer] = {}
    for path in paths:
        for answer in read_court(path):
            if answers.setdefault(answer.id, answer) != answer:
                raise JudgeError(f"{path} has another answer or label under the id {answer.id!r} than an earlier file.")
    return list(answers.values())


def check(path: Path) -> Iterator[Problem | Answer]:
    """Every line of a court file: the answer, or each thing that is wrong with it; reads only.

    Raises:
        JudgeError: the file cannot be read at all.
    """
    first_line: dict[str, int] = {}
    for line in records.scan(path, Answer):
        yield from line.problems
        if line.record is None:
            continue
        first = first_line.setdefault(line.record.id, line.number)
        if first != line.number:
            yield Problem(line.number, "id", f"{line.record.id!r} is the id of line {first} already")
        else:
            yield line.record
