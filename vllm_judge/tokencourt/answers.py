"""Answers to questions, right and wrong ones: from any OpenAI-compatible endpoint, or from vLLM in this process."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.endpoint import Endpoint, ask_all
from vllm_judge.tokencourt.questions import Question

# So many answers are generated before the first of them is written: what a kill costs in the offline engine.
OFFLINE_BATCH = 256


@dataclass(frozen=True)
class Job:
    """One answer to be written: the question, who answers, how hot, and which sample of several."""

    question: Question
    model: str
    temperature: float
    sample: int

    @property
    def id(self) -> str:
        """The answer's id: the same job has the same one in every run."""
        return self._named(self.question.id).decode()

    @property
    def seed(self) -> int:
        """Differs from sample to sample and is the same in every run."""
        return int.from_bytes(hashlib.sha256(self._named(self.question.source or self.question.id)).digest()[:4]) >> 1

    def _named(self, question: str) -> bytes:
        return f"{question}#{self.model}#t{self.temperature:g}#{self.sample}".encode()

    def answer(self, text: str, finish_reason: str | None) -> Answer:
        """The finished job."""
        return Answer(
            id=self.id,
            messages=self.question.messages,
            answer=text,
            model=self.model,
            metadata=metadata_of(self.question, self.temperature, finish_reason),
        )


def metadata_of(question: Question, temperature: float, finish_reason: str | None) -> dict[str, Any]:
    """What an answer's `metadata` says of the question, and of how the answer came about."""
    return {
        "question": question.id,
        "split": question.split.value,
        "temperature": temperature,
        "finish_reason": finish_reason,
        **({} if question.reference is None else {"reference": question.reference}),
        **({"check": question.check.value} if question.check else {}),
    }


@dataclass(frozen=True)
class Outcome:
    """What a run came to: answers that the file held before, that were added, and failures by reason."""

    before: int
    added: int
    failures: Counter[str]


def plan(
    questions: Iterable[Question], models: Sequence[str], temperatures: Sequence[float], samples: int
) -> Iterator[Job]:
    """All jobs: `samples` answers per question, model and temperature; one where temperature 0 would repeat itself."""
    for question in questions:
        for model in models:
            for temperature in temperatures:
                for sample in range(samples if temperature else 1):
                    yield Job(question, model, temperature, sample)


def answer_by_endpoint(
    jobs: Iterable[Job], endpoints: Sequence[Endpoint], output: Path, max_tokens: int, concurrency: int
) -> Outcome:
    """Has the jobs answered by endpoints, one for each model; every answer is in the file as soon as it is there.

    Raises:
        JudgeError: the file cannot be written.
        JudgeError: an endpoint is of no use; the answers so far are kept.
    """
    by_model = {endpoint.model: endpoint for endpoint in endpoints}
    with records.Appender[Answer](output) as appender:
        before, missing = _missing(jobs, output)

        async def ask(job: Job) -> None:
            choice = await by_model[job.model].complete(
                job.question.messages, temperature=job.temperature, max_tokens=max_tokens, seed=job.seed
            )
            appender.append(job.answer(choice.text, choice.finish_reason))

        async def run(advance: Callable[[], None]) -> Counter[str]:
            try:
                return await ask_all(missing, ask, concurrency, advance)
            finally:
                for endpoint in endpoints:
                    await endpoint.close()

        with bar("answers", before + len(missing), before) as advance:
            failures = asyncio.run(run(advance))
    return Outcome(before, len(missing) - failures.total(), failures)


def answer_offline(jobs: Iterable[Job], output: Path, max_tokens: int, engine: dict[str, Any]) -> Outcome:
    """Has the jobs of one model answered by vLLM's `LLM`, made with the options `engine`.

    Raises:
        JudgeError: the file cannot be written.
    """
    try:
        from vllm import SamplingParams

        from vllm_judge.engine import offline
    except ImportError:
        raise JudgeError("vLLM is not installed: install it, or name an --endpoint.") from None

    with records.Appender[Answer](output) as appender:
        before, missing = _missing(jobs, output)
        if missing:
            llm = offline.start(model=missing[0].model, **offline.options_for_seeded_requests() | engine)
        with bar("answers", before + len(missing), before) as advance:
            for start in range(0, len(missing), OFFLINE_BATCH):
                batch = missing[start : start + OFFLINE_BATCH]
                chats: Any = [[message.model_dump() for message in job.question.messages] for job in batch]
                params = [SamplingParams(temperature=j.temperature, max_tokens=max_tokens, seed=j.seed) for j in batch]
                for job, finished in zip(batch, llm.chat(chats, params, use_tqdm=False), strict=True):
                    completion = finished.outputs[0]
                    appender.append(job.answer(completion.text, completion.finish_reason))
                    advance()
    return Outcome(before, len(missing), Counter())


def _missing(jobs: Iterable[Job], output: Path) -> tuple[int, list[Job]]:
    """How many of the jobs the file holds already, and the others.

    Raises:
        JudgeError: the file cannot be read, or holds an answer to another question under the id of one of the jobs.
    """
    wanted = {job.id: job for job in jobs}.values()  # an option that is given twice asks once
    there = {line.record.id: line.record.messages for line in records.scan(output, Answer) if line.record}
    for job in wanted:
        if there.get(job.id, job.question.messages) != job.question.messages:
            raise JudgeError(
                f"{output} holds another question's answer under the id {job.id!r}: choose another file with -o."
            )
    missing = [job for job in wanted if job.id not in there]
    return len(wanted) - len(missing), missing
