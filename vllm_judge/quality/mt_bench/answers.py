"""MT-Bench's questions, answered in two turns by one engine under every dial, and kept on disk.

MT-Bench: 80 open questions in eight categories, each with a follow-up (Zheng et al., NeurIPS 2023, arXiv 2306.05685).
Nothing is downloaded: the user brings the file of questions, or any other one in its form.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from pydantic import BaseModel, ConfigDict, Field

from vllm_judge.errors import JudgeError
from vllm_judge.quality.counters import Counters
from vllm_judge.quality.engines import Engine
from vllm_judge.quality.scores import STRICT
from vllm_judge.quality.tasks import refuse_judged
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Text

TURNS = 2


class MtQuestion(BaseModel):
    """A line of the published file; keys beside these are left alone.

    Attributes:
        question_id: unique in its file.
        category: such as writing or math; results are given for each.
        turns: the user's two messages.
        reference: right answers to them, where there are any; the judge model is shown them.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True, frozen=True)

    question_id: Text
    category: Text
    turns: list[Text] = Field(min_length=TURNS, max_length=TURNS)
    reference: list[str | None] | None = None


class Answered(BaseModel):
    """One way of decoding and all its answers: a line of mt_bench_answers.jsonl.

    Attributes:
        dial: what every request carried; None was left out.
        questions: a hash of the questions. max_tokens: where answers were cut off.
        seconds, counted: time and counters of all answers.
        answers: both answers to each question, by its id.
    """

    arm: str
    dial: dict[str, Any]
    model: str
    questions: str
    max_tokens: int
    seconds: float
    counted: Counters
    answers: dict[str, list[str]]


def read_questions(path: Path) -> list[MtQuestion]:
    """The questions of a file.

    Raises:
        JudgeError: the file cannot be read, or a line is no question; the message names it.
        JudgeError: it holds none, or an id twice.
    """
    questions = records.read(path, MtQuestion)
    ids = {question.question_id for question in questions}
    if not questions or len(ids) < len(questions):
        raise JudgeError(f"{path} holds {len(questions)} questions with {len(ids)} ids: give one id to each.")
    return questions


def answers_of(
    path: Path,
    questions: Sequence[MtQuestion],
    dials: Mapping[str, dict[str, Any]],
    max_tokens: int,
    start_engine: Callable[[], Engine],
) -> list[Answered]:
    """What is in the file; where there is none, every dial's answers, asked for now and written.

    All dials are answered by one engine in one go, or none is kept: times of two goes are not comparable.

    Raises:
        JudgeError: the file holds answers to something else, or a strict answer was judged.
    """
    key = hashlib.sha256("\n".join(question.model_dump_json() for question in questions).encode()).hexdigest()
    if path.exists():
        kept = records.read(path, Answered)
        same = [(one.arm, one.dial, one.questions, one.max_tokens) for one in kept]
        if same != [(arm, dial, key, max_tokens) for arm, dial in dials.items()]:
            raise JudgeError(
                f"{path} holds answers to other questions, thresholds or --max-tokens: give another --output."
            )
        return kept

    engine = start_engine()
    for dial in dials.values():  # what an engine does at a dial's first request only should cost nobody time
        _converse(engine, questions[:1], dial, max_tokens)
    found = []
    for arm, dial in dials.items():
        answers, seconds, counted = _converse(engine, questions, dial, max_tokens)
        found.append(
            Answered(
                arm=arm,
                dial=dial,
                model=engine.name,
                questions=key,
                max_tokens=max_tokens,
                seconds=seconds,
                counted=counted,
                answers=answers,
            )
        )
        if arm == STRICT:
            refuse_judged(counted)
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, found)
    return found


def _converse(
    engine: Engine, questions: Sequence[MtQuestion], dial: dict[str, Any], max_tokens: int
) -> tuple[dict[str, list[str]], float, Counters]:
    """Both turns of every conversation, greedily; all first turns, then all second ones."""
    arguments = engine.arguments(dial, salt=secrets.token_hex(8)) | {"until": [], "max_gen_toks": max_tokens}
    chats: list[list[dict[str, str]]] = [[] for _ in questions]
    seconds, counted = 0.0, Counters.none()
    for turn in range(TURNS):
        asked = []
        for number, (question, chat) in enumerate(zip(questions, chats, strict=True)):
            chat.append({"role": "user", "content": question.turns[turn]})
            asked.append(Instance("generate_until", {}, (engine.apply_chat_template(chat), dict(arguments)), number))
        for chat, answer in zip(chats, engine.generate_until(asked), strict=True):
            chat.append({"role": "assistant", "content": answer})
        seconds, counted = seconds + engine.seconds, counted + engine.counted
    texts = ([message["content"] for message in chat if message["role"] == "assistant"] for chat in chats)
    return {question.question_id: both for question, both in zip(questions, texts, strict=True)}, seconds, counted
