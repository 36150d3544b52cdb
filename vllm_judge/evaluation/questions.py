"""Questions with checkable answers, from a JSONL file."""

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerBase

from vllm_judge.demo.world import World, is_correct, problems

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
CHOICE = re.compile(r"\b[A-J]\b")


class QuestionError(ValueError):
    """A file of questions that cannot be used; the message is one sentence: the line, and what is wrong there."""


@dataclass(frozen=True)
class Question:
    """A prompt and what answers it.

    Attributes:
        key: a hash of question and answer: what answers are found again by.
        prompt_ids: at least one token.
        is_right: whether a text, special tokens left out, answers the question rightly.
    """

    key: str
    prompt_ids: list[int]
    is_right: Callable[[str], bool]


class QuestionLine(BaseModel):
    """A line of the file.

    Attributes:
        prompt: text to continue; or `messages`: a conversation, to which the target's chat template is applied.
        answer: the right answer.
        checker: how a text is compared with it, a key of CHECKERS.
    """

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    prompt: str | None = Field(default=None, min_length=1)
    messages: list[dict[str, str]] | None = Field(default=None, min_length=1)
    answer: str = Field(min_length=1)
    checker: Literal["exact", "number", "choice"]

    @model_validator(mode="after")
    def _checkable(self) -> "QuestionLine":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        if self.checker == "number" and last_number(self.answer) is None:
            raise ValueError(f"the answer {self.answer!r} is no number")
        if self.checker == "choice" and not CHOICE.fullmatch(self.answer):
            raise ValueError(f"the answer {self.answer!r} is no letter from A to J")
        return self


def exact(text: str, answer: str) -> bool:
    """The whole text is the answer, but for case and white space around it."""
    return text.strip().casefold() == answer.strip().casefold()


def number(text: str, answer: str) -> bool:
    """The last number of the text is the answer's; "1,200.0" is 1200."""
    found = last_number(text)
    return found is not None and found == last_number(answer)


def choice(text: str, answer: str) -> bool:
    """The last capital letter from A to J that stands alone is the answer."""
    found = CHOICE.findall(text)
    return bool(found) and found[-1] == answer


CHECKERS: dict[str, Callable[[str, str], bool]] = {"exact": exact, "number": number, "choice": choice}


def last_number(text: str) -> Decimal | None:
    """The last number that is written in the text in digits."""
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def read_questions(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The questions of a JSONL file, see `QuestionLine`.

    Raises:
        QuestionError: the file holds no question, or a line is not one.
    """
    questions = []
    for number_of_line, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                questions.append(_question(QuestionLine.model_validate(json.loads(line)), tokenizer))
            except (json.JSONDecodeError, ValidationError) as error:
                raise QuestionError(f"{path}, line {number_of_line}: {_reason(error)}.") from error
    if not questions:
        raise QuestionError(f"{path} holds no question.")
    return questions


def demo_questions(n: int, seed: int, tokenizer: PreTrainedTokenizerBase, world: World) -> list[Question]:
    """The first `n` fresh word problems of a seed, of a world that embedded models know."""
    from vllm_judge.demo.tokenizer import render_prompt

    return [
        Question(
            _key(problem.question),
            tokenizer.encode(render_prompt(problem.question)),
            functools.partial(is_correct, problem),
        )
        for problem in problems(n, seed, "test", world)
    ]


def _question(line: QuestionLine, tokenizer: PreTrainedTokenizerBase) -> Question:
    if line.messages is None:
        prompt_ids = tokenizer.encode(line.prompt)
    else:
        prompt_ids = tokenizer.apply_chat_template(
            line.messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    check, answer = CHECKERS[line.checker], line.answer
    return Question(_key(line.model_dump_json()), list(prompt_ids), lambda text: check(text, answer))


def _key(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _reason(error: json.JSONDecodeError | ValidationError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg})"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
