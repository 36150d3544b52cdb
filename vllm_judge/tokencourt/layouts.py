"""Layouts: what a dataset's row says of a question. ARC's, Alpaca's and GSM8K's are known, the demo's too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_judge.tokencourt.choices import Check


@dataclass(frozen=True)
class Asked:
    """What a layout makes of a row: the question's text, the reference (None where there is none) and its check."""

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
    text = "\n\n".join(filter(None, (row["instruction"].strip(), (row["input"] or "").strip())))
    return Asked(text, row["output"].strip() or None, None)


def plain(question: str, reference: str | None, check: Check | None) -> Callable[[Mapping[str, Any]], Asked]:
    """A layout of one field with the question's text and, optionally, one with the reference."""

    def layout(row: Mapping[str, Any]) -> Asked:
        return Asked(
            _text(row, question), None if reference is None or row[reference] is None else _text(row, reference), check
        )

    return layout


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if value is None:
        raise ValueError(f"{field} is missing")
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{field} must be text or a number, found {type(value).__name__}")
    return str(value)


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
