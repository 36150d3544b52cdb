"""Questions: ARC, Alpaca, GSM8K, any Hugging Face dataset, a JSONL file, or the demo's own."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.choices import HELD_OUT, Check, Split
from vllm_judge.tokencourt.court import Message, Text


class Question(BaseModel):
    """One question.

    Attributes:
        id: unique in its file.
        messages: the question as chat.
        split: train or held_out, see `split_of`.
        reference: the right final answer, where one is known.
        check: how to compare with it; None where only a reader can.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text
    messages: list[Message] = Field(min_length=1)
    split: Split
    reference: str | None = None
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


@dataclass(frozen=True)
class Asked:
    """What a layout makes of a row: the question's text, the reference and how to check it."""

    text: str
    reference: str | None
    check: Check | None


NUMBER_REQUEST = 'Reason step by step and end with "The final answer is" and the number.'
CHOICE_REQUEST = 'Reason step by step and end with "The final answer is" and the letter.'


def gsm8k(row: Mapping[str, Any]) -> Asked:
    """GSM8K: `question`, and `answer`, a worked solution with the result behind ####."""
    reference = row["answer"].rpartition("####")[2].strip()
    return Asked(f"{row['question'].strip()}\n\n{NUMBER_REQUEST}", reference, Check.number)


def arc(row: Mapping[str, Any]) -> Asked:
    """ARC: `question`, `choices` with `text` and `label`, and `answerKey`, a label. Labels become letters."""
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    letters = [chr(ord("A") + index) for index in range(len(labels))]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    reference = letters[list(labels).index(row["answerKey"])]
    return Asked(f"{row['question'].strip()}\n\n{options}\n\n{CHOICE_REQUEST}", reference, Check.choice)


def alpaca(row: Mapping[str, Any]) -> Asked:
    """Alpaca: `instruction`, `input` (may be empty) and `output`, one good answer of many."""
    text = "\n\n".join(filter(None, (row["instruction"].strip(), row["input"].strip())))
    return Asked(text, row["output"].strip() or None, None)


def plain(question: str, reference: str | None, check: Check | None) -> Callable[[Mapping[str, Any]], Asked]:
    """A layout of one field with the question's text and, optionally, one with the reference."""

    def layout(row: Mapping[str, Any]) -> Asked:
        return Asked(str(row[question]), None if reference is None else str(row[reference]), check)

    return layout


@dataclass(frozen=True)
class KnownDataset:
    """A dataset whose layout is known: its name and configuration on the Hub; the demo makes its own."""

    name: str
    config: str | None
    layout: Callable[[Mapping[str, Any]], Asked]


KNOWN = {
    "gsm8k": KnownDataset("openai/gsm8k", "main", gsm8k),
    "arc": KnownDataset("allenai/ai2_arc", "ARC-Challenge", arc),
    "alpaca": KnownDataset("tatsu-lab/alpaca", None, alpaca),
    "demo": KnownDataset("demo", None, plain("question", "answer", Check.number)),
}


def rows_of(source: str, config: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a JSONL file, or of a dataset (a folder or a name on the Hub).

    Raises:
        JudgeError: there is no such file or dataset, or it cannot be read.
    """
    if source.endswith((".jsonl", ".json")):
        yield from _json_rows(Path(source))
        return
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise JudgeError("datasets is not installed: pip install 'vllm-judge-decoding[court]'.") from None
    try:
        yield from load_dataset(source, config, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JudgeError(f"the dataset {source} (split {split}) cannot be loaded: {reason}") from None


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path} cannot be read: {error}.") from None
    if text.lstrip().startswith("["):
        rows = [(0, text)]
    else:
        rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, row in rows:
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            raise JudgeError(f"{path}, line {number or error.lineno}: not JSON: {error.msg}.") from None
        yield from value if isinstance(value, list) else [value]


def make_questions(
    rows: Iterable[Mapping[str, Any]], name: str, layout: Callable[[Mapping[str, Any]], Asked], held_out: float
) -> Iterator[Question]:
    """Questions from rows; one that was asked before is left out. Ids are `name` and the row's number.

    Raises:
        JudgeError: a row does not have the layout's fields.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows):
        try:
            asked = layout(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JudgeError(
                f"row {number} of {name} does not have the expected layout: {type(error).__name__}: {error}."
            ) from None
        if asked.text in seen:
            continue
        seen.add(asked.text)
        messages = [Message(role="user", content=asked.text)]
        yield Question(
            id=f"{name}/{number}",
            messages=messages,
            split=split_of(messages, held_out),
            reference=asked.reference,
            check=asked.check,
        )
