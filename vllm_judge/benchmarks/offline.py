"""vLLM's `LLM` timed: an engine in a process of its own, and what it counts while it answers."""

import contextlib
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from vllm_judge.errors import JudgeError

LOG_LINES = 15
ERROR = re.compile(r"^(?!.* WARNING ).*\b[A-Z]\w*(Error|Exception)(: |$)")
Prompt = str | list[int]  # text or token ids

# vLLM's counters and ours, by the names that `llm.get_metrics()` and /metrics share (there with a suffix `_total`).
COUNTERS = {
    "cycles": "vllm:spec_decode_num_drafts",
    "drafted": "vllm:spec_decode_num_draft_tokens",
    "accepted": "vllm:spec_decode_num_accepted_tokens",
    "judge_only": "vllm:spec_decode_num_judge_only_tokens",
}


@dataclass(frozen=True)
class Timed:
    """A timed run.

    Attributes:
        texts: the answers, in the order of the prompts.
        tokens: generated tokens; seconds: wall-clock time of the run.
        before, after: the engine's counters (the keys of COUNTERS).
    """

    texts: list[str]
    tokens: int
    seconds: float
    before: dict[str, int]
    after: dict[str, int]


class TimedEngine:
    """A context manager around one `vllm.LLM` in a fresh process, so that engines neither share state nor pile up.

    Args:
        options: of `LLM`.
        warm_up: prompts that are answered before any clock runs.
        max_tokens: longest answer.

    Raises:
        JudgeError: the engine did not start.
    """

    def __init__(self, options: Mapping[str, Any], warm_up: Sequence[Prompt], max_tokens: int):
        descriptor, name = tempfile.mkstemp(prefix="vllm-judge-", suffix=".log")
        os.close(descriptor)
        self.log = Path(name)
        self._max_tokens = max_tokens
        self._worker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._worker.submit(_start, dict(options), name).result()
            self.answer(warm_up)
        except Exception as error:
            self._fail("did not start", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(BrokenProcessPool):
            self._worker.submit(_stop).result()
        self._worker.shutdown()
        self.log.unlink(missing_ok=True)

    def answer(
        self, prompts: Sequence[Prompt], at_a_time: int | None = None, dial: Mapping[str, Any] | None = None
    ) -> Timed:
        """Answers prompts greedily.

        Args:
            at_a_time: so many are under way at any time; None: all at once.
            dial: `extra_args` of every request.

        Raises:
            JudgeError: the engine died.
        """
        try:
            return self._worker.submit(_answer, list(prompts), self._max_tokens, at_a_time, dial).result()
        except BrokenProcessPool as error:
            self._fail("died", error)

    def _fail(self, what: str, error: Exception) -> NoReturn:
        # A refused configuration (a ValueError) says all; anything else has its cause in the log.
        log = "" if isinstance(error, ValueError) else f"\nThe last lines of its log:\n{last_lines(self.log)}"
        self.__exit__()
        raise JudgeError(f"the engine {what}: {error}{log}") from error


def last_lines(log: Path) -> str:
    """The end of an engine's log, to be shown when the engine has died, behind the first error, which is its cause."""
    lines = log.read_text(errors="replace").splitlines()
    cause = [line for line in lines[:-LOG_LINES] if ERROR.search(line)][:1]
    return "\n".join([*cause, *lines[-LOG_LINES:]])


# --- in the worker process ---

_llm: Any = None


def _start(options: dict[str, Any], log: str) -> None:
    global _llm
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)

    from vllm_judge.engine import offline

    _llm = offline.start(**options, disable_log_stats=False)


def _stop() -> None:
    """Stops vLLM's own processes: a worker process ends only after its children have."""
    if _llm is not None:
        from vllm_judge.engine import offline

        offline.stop(_llm)


def _answer(prompts: list[Prompt], max_tokens: int, at_a_time: int | None, dial: Mapping[str, Any] | None) -> Timed:
    from vllm import SamplingParams

    from vllm_judge.engine import offline

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, extra_args=dict(dial) if dial else None)
    before = _counters()
    start = time.perf_counter()
    answers = dict(offline.generate(_llm, prompts, [params] * len(prompts), at_a_time))
    seconds = time.perf_counter() - start
    texts = [answers[number].text for number in range(len(prompts))]
    return Timed(texts, sum(len(one.token_ids) for one in answers.values()), seconds, before, _counters())


def _counters() -> dict[str, int]:
    values = {metric.name: metric.value for metric in _llm.get_metrics() if metric.name in COUNTERS.values()}
    return {name: values.get(counter, 0) for name, counter in COUNTERS.items()}
