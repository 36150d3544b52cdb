"""A judge model compares two answers, in both orders; its reply is taken word for word or not at all.

Models prefer the answer that they read first, or second (Zheng et al., arXiv 2306.05685, section 3.3): so each pair is
shown both ways round, and only what is said both times counts.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_judge.progress import bar
from vllm_judge.quality.mt_bench.answers import TURNS, Answered, MtQuestion
from vllm_judge.quality.scores import STRICT
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Message
from vllm_judge.tokencourt.endpoint import Endpoint, ask_all

MAX_TOKENS = 2048
INSTRUCTION = """You compare two assistants, A and B, that answered the same user. Say whose answer to the user's last \
message serves the user better: is it right, does it do what was asked, is it clear and complete? Where reference \
answers are given, they are right. Neither the order of the two answers nor their length is a merit. Two answers that \
differ in wording only are equally good.

Reply with a JSON object:
- "reason": one or two sentences;
- "better": "A", "B", or "neither" where both are equally good or equally bad."""

Side = Literal["strict", "judged"]
ORDERS: tuple[Side, Side] = ("strict", "judged")  # whose answer is shown first


class Preference(BaseModel):
    """What the judge model has to reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    better: Literal["A", "B", "neither"]


SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "preference", "strict": True, "schema": Preference.model_json_schema()},
}


class Verdict(BaseModel):
    """The judge model's word on a pair of answers in one order: a line of mt_bench_verdicts.jsonl.

    Attributes:
        turn: from 1. first: whose answer was shown as A.
        better: None where the reply was refused; `reason` then says why.
    """

    judge: str
    question_id: str
    arm: str
    turn: int
    first: Side
    better: Side | Literal["neither"] | None
    reason: str

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What tells one comparison from another."""
        return self.judge, self.question_id, self.arm, self.turn, self.first


@dataclass(frozen=True)
class Pair:
    """A strict and a judged answer to a turn; conversations up to it, without the user's messages."""

    question: MtQuestion
    arm: str
    turn: int
    strict: list[str]
    judged: list[str]

    @property
    def is_identical(self) -> bool:
        """No judge is needed to see a tie."""
        return self.strict == self.judged


def pairs(questions: Sequence[MtQuestion], answered: Sequence[Answered]) -> Iterator[Pair]:
    """Every judged answer beside the strict one to the same turn."""
    [strict] = [one for one in answered if one.arm == STRICT]
    for judged in answered:
        for question in questions if judged is not strict else []:
            for turn in range(1, TURNS + 1):
                both = (one.answers[question.question_id][:turn] for one in (strict, judged))
                yield Pair(question, judged.arm, turn, *both)


def judge(
    compared: Sequence[Pair], endpoint: Endpoint, path: Path, concurrency: int
) -> tuple[list[Verdict], Counter[str]]:
    """Asks for every pair that is not identical, in both orders; what the file holds already is not asked again.

    Returns:
        All verdicts of this judge model, and how many requests failed, by reason; those are not in the file.

    Raises:
        JudgeError: the file cannot be written.
        JudgeError: the endpoint is of no use; the verdicts so far are kept.
    """
    with records.Appender[Verdict](path) as appender:
        there = {verdict.key: verdict for line in records.scan(path, Verdict) if (verdict := line.record)}
        wanted = [(pair, first) for pair in compared if not pair.is_identical for first in ORDERS]
        keys = [(endpoint.model, pair.question.question_id, pair.arm, pair.turn, first) for pair, first in wanted]
        waiting = [job for job, key in zip(wanted, keys, strict=True) if key not in there]

        async def ask(job: tuple[Pair, Side]) -> None:
            choice = await endpoint.complete(
                prompt(*job), temperature=0.0, max_tokens=MAX_TOKENS, response_format=SCHEMA
            )
            verdict = read(*job, endpoint.model, choice.text)
            appender.append(verdict)
            there[verdict.key] = verdict

        async def run(advance: Callable[[], None]) -> Counter[str]:
            try:
                return await ask_all(waiting, ask, concurrency, advance)
            finally:
                await endpoint.close()

        with bar("comparisons", len(wanted), len(wanted) - len(waiting)) as advance:
            failures = asyncio.run(run(advance))
    return [there[key] for key in keys if key in there], failures


def prompt(pair: Pair, first: Side) -> list[Message]:
    """What the judge model is asked about a pair."""
    a, b = (pair.strict, pair.judged) if first == "strict" else (pair.judged, pair.strict)
    references = pair.question.reference or []
    parts = []
    for turn in range(pair.turn):
        parts.append(f"# The user's message {turn + 1}\n\n{pair.question.turns[turn]}")
        if turn < len(references) and references[turn]:
            parts.append(f"# Reference answer {turn + 1}\n\n{references[turn]}")
        parts.append(f"# A's answer {turn + 1}\n\n{a[turn]}")
        parts.append(f"# B's answer {turn + 1}\n\n{b[turn]}")
    return [Message(role="system", content=INSTRUCTION), Message(role="user", content="\n\n".join(parts))]


def read(pair: Pair, first: Side, judge: str, reply: str) -> Verdict:
    """The verdict that a reply gives; one without a preference where it does not follow the schema."""
    second: Side = "judged" if first == "strict" else "strict"
    sides: dict[str, Any] = {"A": first, "B": second, "neither": "neither"}
    try:
        found = Preference.model_validate_json(reply)
        better, reason = sides[found.better], found.reason
    except ValidationError:
        better, reason = None, f"does not follow the schema: {reply}"
    return Verdict(
        judge=judge,
        question_id=pair.question.question_id,
        arm=pair.arm,
        turn=pair.turn,
        first=first,
        better=better,
        reason=reason,
    )
