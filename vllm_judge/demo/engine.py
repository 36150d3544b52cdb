"""The trio in a vLLM engine that has a process of its own."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import torch

from vllm_judge.demo import trio
from vllm_judge.demo.outcome import COUNTERS, Outcome
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import Problem
from vllm_judge.errors import JudgeError

WARM_UP_PROBLEMS = 4
LOG_LINES = 15
# Room for the drafts of 64 requests beside their prompts: where drafts are trimmed, a judge sees other cycles.
MAX_NUM_BATCHED_TOKENS = 8192


def engine_environment() -> dict[str, str]:
    """The environment of the trio's engines: offline, small, with the OpenMP runtime that vLLM asks for."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    # vLLM leaves some shared memory to Python's tracker, which frees it at the end and would warn of it.
    environment["PYTHONWARNINGS"] = f"{environment.get('PYTHONWARNINGS', '')},ignore:resource_tracker".lstrip(",")
    if not torch.cuda.is_available():
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        openmp = Path(sys.prefix, "lib", "libiomp5.so")
        preloaded = environment.get("LD_PRELOAD", "")
        if openmp.exists() and "libiomp" not in preloaded:
            environment["LD_PRELOAD"] = f"{openmp}:{preloaded}".rstrip(":")
    return environment


def last_lines(log: Path) -> str:
    """The end of an engine's log, to be shown when the engine has died."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


class Engine:
    """A context manager around one `vllm.LLM` in a fresh process, so that engines neither share state nor pile up.

    Args:
        speculative_config: as `LLM` takes it; None: no speculation.
        max_num_seqs: requests that run at the same time.
        target: the folder of the target.

    Raises:
        JudgeError: the engine did not start.
    """

    def __init__(self, speculative_config: dict[str, Any] | None, max_num_seqs: int, target: Path = trio.TARGET):
        descriptor, name = tempfile.mkstemp(prefix="vllm-judge-", suffix=".log")
        os.close(descriptor)
        self.log = Path(name)
        os.environ.update(engine_environment())  # LD_PRELOAD acts on new processes only: here, on the worker
        self._worker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._worker.submit(_start, target, speculative_config, max_num_seqs, name).result()
        except Exception as error:
            self._fail("did not start", error)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(BrokenProcessPool):
            self._worker.submit(_stop).result()
        self._worker.shutdown()
        self.log.unlink(missing_ok=True)

    def solve(self, problems: Sequence[Problem], one_by_one: bool = False) -> Outcome:
        """Solves problems greedily, timed: all at once, or each after the one before.

        Raises:
            JudgeError: the engine died.
        """
        prompts = [render_prompt(problem.question) for problem in problems]
        try:
            return Outcome.of(problems, *self._worker.submit(_generate, prompts, one_by_one).result())
        except BrokenProcessPool as error:
            self._fail("died", error)

    def _fail(self, what: str, error: Exception) -> NoReturn:
        # A refused configuration (a ValueError) says all; anything else has its cause in the log.
        log = "" if isinstance(error, ValueError) else f"\nThe last lines of its log:\n{last_lines(self.log)}"
        self.__exit__()
        raise JudgeError(f"the engine {what}: {error}{log}") from error


# --- in the worker process ---

_llm: Any = None


def _start(target: Path, speculative_config: dict[str, Any] | None, max_num_seqs: int, log: str) -> None:
    global _llm
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)

    from vllm_judge.engine import offline

    _llm = offline.start(
        model=str(target),
        speculative_config=speculative_config,
        dtype="float32",
        max_model_len=trio.MAX_MODEL_LEN,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        enforce_eager=not torch.cuda.is_available(),
        disable_log_stats=False,
    )
    _generate([render_prompt("Tom has 5 pens.")] * WARM_UP_PROBLEMS, one_by_one=False)


def _stop() -> None:
    """Stops vLLM's own processes: a worker process ends only after its children have."""
    if _llm is not None:
        from vllm_judge.engine import offline

        offline.stop(_llm)


def _generate(prompts: list[str], one_by_one: bool) -> tuple[list[str], int, float, dict[str, int], dict[str, int]]:
    """(texts, generated tokens, seconds, counters before, counters after)."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=trio.MAX_NEW_TOKENS)
    groups = [[prompt] for prompt in prompts] if one_by_one else [prompts]
    before = _counters()
    start = time.perf_counter()
    outputs = [output for group in groups for output in _llm.generate(group, params, use_tqdm=False)]
    seconds = time.perf_counter() - start
    answers = [output.outputs[0] for output in outputs]
    tokens = sum(len(answer.token_ids) for answer in answers)
    return [answer.text for answer in answers], tokens, seconds, before, _counters()


def _counters() -> dict[str, int]:
    values = {metric.name: metric.value for metric in _llm.get_metrics() if metric.name in COUNTERS.values()}
    return {name: values.get(counter, 0) for name, counter in COUNTERS.items()}
