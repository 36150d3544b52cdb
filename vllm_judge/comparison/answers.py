"""Answers on disk: one JSONL file for each rule and setting, one line a prompt; a killed run goes on where it was."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vllm_judge.decoding.rules import Acceptance, Rule, Setting
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records

IDENTITY = "identity.json"


@dataclass(frozen=True)
class Contender:
    """A rule with one of its settings."""

    rule: Rule
    setting: Setting

    @property
    def setting_name(self) -> str:
        """Such as "threshold=0.5", empty where there is nothing to set."""
        return ", ".join(f"{name}={value:g}" for name, value in self.setting.items())

    @property
    def file_name(self) -> str:
        slug = re.sub(r"[^\w.=-]+", "_", f"{self.rule.name} {self.setting_name}".strip())
        return f"{slug}.jsonl"

    @property
    def accepts(self) -> Acceptance:
        return lambda step: self.rule.accepts(step, **self.setting)


class Answer(BaseModel):
    """What a contender made of a prompt.

    Attributes:
        question: the question's key.
        right: whether the answer is right.
        tokens: generated tokens, the end-of-sequence token included.
        cycles: accepted drafts of each cycle.
        judge_only: accepted drafts that the strict test alone would have rejected.
        text: the answer.
        probabilities: see `Decoded`.
    """

    question: str
    right: bool
    tokens: int
    cycles: list[int]
    judge_only: int
    text: str
    probabilities: list[int] | None = None


class AnswerFolder:
    """The answers of a comparison.

    Args:
        folder: made where it is missing.
        identity: what the answers depend on, questions and settings of rules apart; plain JSON values. A key that the
            folder does not know yet is added.

    Raises:
        JudgeError: the folder holds the answers of a comparison with another identity.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self._folder = folder / "answers"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = folder / IDENTITY
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        differing = [key for key in identity if found.get(key, identity[key]) != identity[key]]
        if differing:
            raise JudgeError(
                f"{folder} holds a comparison with another {' and '.join(differing)}: choose another folder."
            )
        path.write_text(json.dumps({**found, **identity}, indent=2) + "\n", encoding="utf-8")

    def read(self, contender: Contender) -> dict[str, Answer]:
        """A contender's answers by their questions' keys; a line that a killed run left unfinished is set aside.

        Raises:
            JudgeError: the file cannot be read.
        """
        path = self._folder / contender.file_name
        if not path.exists():
            return {}
        records.repair(path)
        return {answer.question: answer for answer in records.read(path, Answer)}

    def add(self, contender: Contender, answer: Answer) -> None:
        """Writes one answer.

        Raises:
            JudgeError: it cannot be written; the answers before it are kept.
        """
        with records.Appender[Answer](self._folder / contender.file_name) as file:
            file.append(answer)
