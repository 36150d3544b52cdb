"""What served models are asked by bench_serve.py, and whether they answer rightly."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from vllm_judge.demo.world import is_correct, problems
from vllm_judge.evaluation.questions import CHECKERS
from vllm_judge.evaluation.statistics import accuracy, paired_difference


class PromptError(ValueError):
    """Prompts that cannot be used; the message is one sentence."""


class PromptLine(BaseModel):
    """A line of --prompts."""

    prompt: str = Field(min_length=1)
    answer: str | None = Field(default=None, coerce_numbers_to_str=True)
    checker: str | None = Field(default=None, pattern=f"^({'|'.join(CHECKERS)})$")


@dataclass(frozen=True)
class Prompt:
    """A user's message, and whether a text answers it rightly; None: nobody knows."""

    text: str
    is_right: Callable[[str], bool] | None


def demo_prompts(count: int, seed: int) -> list[Prompt]:
    return [Prompt(one.question, functools.partial(is_correct, one)) for one in problems(count, seed, "test")]


def read_prompts(path: Path, count: int) -> list[Prompt]:
    """The first `count` prompts of a file.

    Raises:
        PromptError: a line is no prompt, there are too few, or some have answers and some have none.
    """
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            one = PromptLine.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise PromptError(f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
        checkable = one.answer is not None and one.checker is not None
        prompts.append(Prompt(one.prompt, functools.partial(_matches, one) if checkable else None))
    if len(prompts) < count:
        raise PromptError(
            f"{path} holds {len(prompts)} prompts, and {count} are needed: -n at each concurrency, unused."
        )
    if len({prompt.is_right is None for prompt in prompts[:count]}) > 1:
        raise PromptError(f"{path} has answer and checker in some lines only: give both in every line, or in none.")
    return prompts[:count]


def _matches(line: PromptLine, text: str) -> bool:
    return CHECKERS[str(line.checker)](text, str(line.answer))


def quality(prompts: Sequence[Prompt], texts: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """Accuracy of every mode over all its answers, and the paired difference from plain; None without answers."""
    right: dict[str, list[bool]] = {}
    for mode, answers in texts.items():
        for prompt, text in zip(prompts, answers, strict=True):
            if prompt.is_right is None:
                return None
            right.setdefault(mode, []).append(prompt.is_right(text))
    return {
        mode: {
            "n": len(answers),
            "accuracy": asdict(accuracy(answers)),
            "minus_plain": asdict(paired_difference(answers, right["plain"])),
        }
        for mode, answers in right.items()
    }
