"""An annotator model marks the first mistake; its reply is taken word for word or not at all."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict
from vllm_judge.tokencourt.endpoint import Endpoint, ask_all

INSTRUCTION = """You check answers word by word. Read the question and the answer, and find the first place where the \
answer goes wrong: a false fact, a wrong number or operation, a conclusion that does not follow. Unusual wording, \
detours and style are no mistakes.

Reply with a JSON object:
- "verdict": "right" if nothing in the answer is wrong, else "wrong";
- "before": the few words of the answer right before the first mistake, copied exactly; "" at the very beginning;
- "mistake": the first mistaken words, copied exactly, as few as possible; "" if nothing is wrong."""


class Refusal(ValueError):
    """A reply that cannot be used; the message says why in a few words, the same words for the same reason."""


class FirstMistake(BaseModel):
    """What the annotator has to reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    verdict: Literal["right", "wrong"]
    before: str
    mistake: str


SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "first_mistake", "strict": True, "schema": FirstMistake.model_json_schema()},
}


@dataclass(frozen=True)
class Outcome:
    """What a run came to: answers labelled before and now, replies refused and requests failed, by reason."""

    before: int
    labelled: int
    refused: Counter[str]
    failures: Counter[str]


def needs_label(answer: Answer) -> bool:
    """Whether it is not known yet whether, or where, an answer is wrong."""
    return answer.verdict == Verdict.unknown or (answer.verdict == Verdict.wrong and answer.mistake is None)


def label_by_model(
    answers: Iterable[Answer], endpoint: Endpoint, output: Path, max_tokens: int, concurrency: int
) -> Outcome:
    """Writes all answers to `output`, those that need it with the annotator's label.

    An answer whose reply was refused is written as it was, with the reason in `metadata.refused`; one whose request
    failed is not written. The next run with the same `output` asks for both again.

    Raises:
        JudgeError: the file cannot be written, or holds other answers or another annotator's labels.
        JudgeError: the endpoint is of no use; the labels so far are kept.
    """
    refused: Counter[str] = Counter()
    labelled = 0
    name = f"llm:{endpoint.model}"
    answers = list(answers)
    _leave_out_refused(output, answers, name)
    with records.Appender[Answer](output) as appender:
        there = {line.record.id: line.record for line in records.scan(output, Answer) if line.record}
        before = sum(one.labelled_by == name for one in there.values())
        waiting = []
        for answer in answers:
            if answer.id in there:
                continue
            if needs_label(answer):
                waiting.append(answer)
            else:
                appender.append(answer)

        async def ask(answer: Answer) -> None:
            nonlocal labelled
            options = {"temperature": 0.0, "max_tokens": max_tokens, "response_format": SCHEMA}
            choice = await endpoint.complete(prompt(answer), **options)
            try:
                result = apply(answer, choice.text, name)
                labelled += 1
            except Refusal as refusal:
                refused[str(refusal)] += 1
                result = answer.labelled(answer.verdict, answer.labelled_by, refused={name: str(refusal)})
            appender.append(result)

        async def run(advance: Callable[[], None]) -> Counter[str]:
            try:
                return await ask_all(waiting, ask, concurrency, advance)
            finally:
                await endpoint.close()

        with bar("labels", len(waiting)) as advance:
            failures = asyncio.run(run(advance))
    return Outcome(before, labelled, refused, failures)


def _leave_out_refused(output: Path, answers: Sequence[Answer], name: str) -> None:
    """Makes the file anew without the answers that an earlier run of this annotator left as they were."""
    if not output.exists():
        return
    by_id = {answer.id: answer for answer in answers}
    there = [line.record for line in records.scan(output, Answer) if line.record]
    for one in there:
        given = by_id.get(one.id)
        if given is None or (given.messages, given.answer) != (one.messages, one.answer):
            raise JudgeError(f"{output} holds {one.id!r}, which is none of these answers: choose another file with -o.")
        if one.labelled_by not in (given.labelled_by, name):
            raise JudgeError(
                f"{output} holds {one.id!r} as {one.labelled_by} labelled it: choose another file with -o for {name}."
            )
    kept = [one for one in there if not (needs_label(one) and name in one.metadata.get("refused", {}))]
    if len(kept) < len(there):
        records.repair(output)
        records.write(output, kept)


def prompt(answer: Answer) -> list[Message]:
    """What the annotator is asked about an answer."""
    parts = [f"# Question\n\n{message.content}" for message in answer.messages if message.role == "user"]
    reference = answer.metadata.get("reference")
    if reference is not None:
        parts.append(f"# Reference\n\n{reference}")
    parts.append(f"# Answer\n\n{answer.answer}")
    return [Message(role="system", content=INSTRUCTION), Message(role="user", content="\n\n".join(parts))]


def apply(answer: Answer, reply: str, labelled_by: str) -> Answer:
    """The answer with the label that a reply gives it.

    Raises:
        Refusal: the reply does not follow the schema, contradicts the known verdict, or quotes no one place.
    """
    try:
        found = FirstMistake.model_validate_json(_json_in(reply))
    except ValidationError:
        raise Refusal("does not follow the schema") from None
    if found.verdict == "right":
        if answer.verdict == Verdict.wrong:
            raise Refusal("calls a wrong answer right")
        if found.mistake:
            raise Refusal("calls an answer right and quotes a mistake")
        return answer.labelled(Verdict.right, labelled_by)
    return answer.labelled(Verdict.wrong, labelled_by, locate(answer, found.before, found.mistake))


def _json_in(reply: str) -> str:
    """A reply without what some models write around the JSON: their thoughts, and a fence."""
    reply = re.sub(r"^.*</think>", "", reply, flags=re.DOTALL).strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", reply, flags=re.DOTALL)
    return fenced[1] if fenced else reply


def locate(answer: Answer, before: str, mistake: str) -> Span:
    """The place of a quotation, told from other places with the same words by the words before it.

    Raises:
        Refusal: the answer does not hold it, or holds it in several such places.
    """
    if not mistake.strip():
        raise Refusal("quotes no mistake")
    starts = [s for s in _occurrences(answer.answer, mistake) if s >= answer.labelled_from]
    if not starts:
        raise Refusal("quotes words that are not in the answer")
    if len(starts) > 1 and before.strip():
        starts = [start for start in starts if answer.answer[:start].rstrip().endswith(before.rstrip())]
    if len(starts) != 1:
        raise Refusal("quotes words that do not tell one place from another")
    return Span(start=starts[0], end=starts[0] + len(mistake))


def _occurrences(text: str, words: str) -> list[int]:
    found, start = [], text.find(words)
    while start >= 0:
        found.append(start)
        start = text.find(words, start + 1)
    return found
