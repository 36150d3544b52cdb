"""Questions with checkable answers, of a file that `vllm-judge court questions` wrote."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import questions, records
from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.court import Verdict
from vllm_judge.tokencourt.final_answer import verdict_on
from vllm_judge.tokencourt.questions import question_key
from vllm_judge.tokencourt.tokenizer import prompt_ids


@dataclass(frozen=True)
class Question:
    """A prompt and what answers it.

    Attributes:
        key: a hash of the question: what answers are found again by.
        prompt_ids: at least one token.
        is_right: whether a text, special tokens left out, answers the question rightly.
    """

    key: str
    prompt_ids: list[int]
    is_right: Callable[[str], bool]


def held_out_questions(
    paths: Sequence[Path], tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[Question]:
    """The held-out questions of files whose answers can be checked: heads are not measured on what they learnt from.

    A question that several files ask is asked once.

    Raises:
        JudgeError: there is none.
        JudgeError: a file cannot be read.
        JudgeError: there is no chat template, or it fails on a question.
    """
    found: dict[str, Question] = {}
    for path in paths:
        for one in records.read(path, questions.Question):
            key = question_key(one.messages)
            if one.split == Split.held_out and key not in found and (is_right := checker(one)):
                ids = prompt_ids(one.messages, tokenizer, chat_template, one.id)
                found[key] = Question(key, ids, is_right)
    if not found:
        names = " and ".join(map(str, paths))
        raise JudgeError(f"{names} holds no held-out question with a reference and a check.")
    return list(found.values())


def checker(question: questions.Question) -> Callable[[str], bool] | None:
    """What tells whether a text answers a question rightly; None where only a reader can."""
    if question.reference is None or question.check is None:
        return None
    verdict = functools.partial(verdict_on, reference=question.reference, check=question.check)
    return lambda text: verdict(text) == Verdict.right
