"""What served models are asked by bench_serve.py, and whether they answer rightly."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vllm_judge.decoding.questions import checker
from vllm_judge.demo.world import is_correct, problems
from vllm_judge.measuring.statistics import accuracy, paired_difference
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.questions import Question


class PromptError(ValueError):
    """Prompts that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Prompt:
    """A user's message, and whether a text answers it rightly; None: nobody knows."""

    text: str
    is_right: Callable[[str], bool] | None


def demo_prompts(count: int, seed: int) -> list[Prompt]:
    return [Prompt(one.question, functools.partial(is_correct, one)) for one in problems(count, seed, "test")]


def read_prompts(path: Path, count: int) -> list[Prompt]:
    """The first `count` held-out questions of a file that `vllm-judge court questions` wrote.

    Raises:
        PromptError: there are too few, or one is a conversation.
        JudgeError: the file cannot be read.
    """
    prompts = []
    held_out = (question for question in records.read(path, Question) if question.split == Split.held_out)
    for question in islice(held_out, count):
        message, *more = question.messages
        if more or message.role != "user":
            raise PromptError(f"{path}: {question.id!r} is a conversation, and `vllm bench serve` asks one message.")
        prompts.append(Prompt(message.content, checker(question)))
    if len(prompts) < count:
        raise PromptError(
            f"{path} holds {len(prompts)} held-out questions, and {count} are needed: -n at each concurrency, unused."
        )
    return prompts


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
