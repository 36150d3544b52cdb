"""Questions: what tells one from another, their split, and how rows become questions."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import HELD_OUT, Check, Split
from vllm_judge.tokencourt.court import AnyText, Message, Text
from vllm_judge.tokencourt.final_answer import is_readable
from vllm_judge.tokencourt.layouts import Asked

ID_LENGTH = 16  # hexadecimal digits of `question_key`


class Question(BaseModel):
    """One question.

    Attributes:
        id: by the question's text, so that the same question has the same one in every file; unique in its file.
        source: the file or dataset that it is from, and the row.
        messages: the question as chat.
        split: train or held_out, see `split_of`.
        reference: the right final answer, where one is known.
        check: how to compare with it; None where only a reader can.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text
    source: Text | None = None
    messages: list[Message] = Field(min_length=1)
    split: Split
    reference: AnyText | None = None
    check: Check | None = None


def question_key(messages: Iterable[Message]) -> str:
    """Tells one question from another: a SHA-256 of its text, in hexadecimal. White space and case do not count."""
    text = " ".join(word for message in messages for word in message.content.casefold().split())
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(messages: Iterable[Message], held_out: float = HELD_OUT) -> Split:
    """The split of a question, by a hash of its text: the same in every file, process and order.

    A larger `held_out` (a share, 0 to 1) keeps what a smaller one held out.
    """
    share = int(question_key(messages)[:16], 16) / 2**64
    return Split.held_out if share < held_out else Split.train


@dataclass
class Passed:
    """Rows that gave no question of their own.

    Attributes:
        repeated: how many ask what an earlier one asks.
        differing: those of them, as numbers from 0, whose reference is another than the earlier one's.
        without_reference: how many questions of a layout with references have none.
    """

    repeated: int = 0
    differing: list[int] = field(default_factory=list)
    without_reference: int = 0


def make_questions(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    layout: Callable[[Mapping[str, Any]], Asked],
    held_out: float,
    passed: Passed,
) -> Iterator[Question]:
    """Questions from rows; one that was asked before is left out and counted in `passed`.

    Args:
        rows: of a dataset or file.
        name: of it, for `Question.source`.
        layout: what a row says of a question.
        held_out: share of the questions.
        passed: counts.

    Raises:
        JudgeError: a row does not have the layout's fields, or a reference that its check cannot read.
    """
    references: dict[str, str | None] = {}
    for number, row in enumerate(rows):
        place = f"row {number} of {name}"
        try:
            asked = layout(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JudgeError(f"{place} does not have the expected layout: {type(error).__name__}: {error}.") from None
        try:
            messages = [Message(role="user", content=asked.text)]
            key = question_key(messages)
            question = Question(
                id=key[:ID_LENGTH],
                source=f"{name}/{number}",
                messages=messages,
                split=split_of(messages, held_out),
                reference=asked.reference,
                check=asked.check,
            )
        except ValidationError as error:
            raise JudgeError(f"{place}: {records.explain(error)}.") from None
        if not asked.text.strip():
            raise JudgeError(f"{place}: its question is empty.")
        if key in references:
            passed.repeated += 1
            if references[key] != asked.reference:
                passed.differing.append(number)
            continue
        references[key] = asked.reference
        if asked.check and asked.reference is None:
            passed.without_reference += 1
        elif asked.check and not is_readable(str(asked.reference), asked.check):
            raise JudgeError(
                f"{place}: its reference {_shown(asked.reference)} cannot be read by the check {asked.check.value}: "
                "mend the row, or choose another --check."
            )
        yield question


def read_questions(path: Path) -> list[Question]:
    """All questions of a file.

    Raises:
        JudgeError: the file cannot be read, a line is bad, two lines have one id, or there is none.
    """
    questions = records.read(path, Question)
    if not questions:
        raise JudgeError(f"{path} holds no question.")
    records.refuse_repeated_ids(path, questions)
    return questions


def _shown(text: str | None) -> str:
    return repr(text) if text is None or len(text) <= 80 else repr(text[:77]) + "..."
