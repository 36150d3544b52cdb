"""The trio in a vLLM engine that has a process of its own."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vllm_judge.benchmarks.offline import TimedEngine
from vllm_judge.demo import trio
from vllm_judge.demo.outcome import Outcome
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import Problem

WARM_UP_PROBLEMS = 4
OPENMP = ("libiomp", "libomp", "libgomp")
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
        # Two of them vLLM refuses, and it preloads PyTorch's own once a config was made in this process.
        if openmp.exists() and not any(name in preloaded for name in OPENMP):
            environment["LD_PRELOAD"] = f"{openmp}:{preloaded}".rstrip(":")
    return environment


class Engine(TimedEngine):
    """The trio's target.

    Args:
        speculative_config: as `LLM` takes it; None: no speculation.
        max_num_seqs: requests that run at the same time.
        target: the folder of the target.

    Raises:
        JudgeError: the engine did not start.
    """

    def __init__(self, speculative_config: dict[str, Any] | None, max_num_seqs: int, target: Path = trio.TARGET):
        os.environ.update(engine_environment())  # LD_PRELOAD acts on new processes only: here, on the worker
        options = {
            "model": str(target),
            "speculative_config": speculative_config,
            "dtype": "float32",
            "max_model_len": trio.MAX_MODEL_LEN,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
            "enforce_eager": not torch.cuda.is_available(),
        }
        super().__init__(options, [render_prompt("Tom has 5 pens.")] * WARM_UP_PROBLEMS, trio.MAX_NEW_TOKENS)

    def solve(self, problems: Sequence[Problem], one_by_one: bool = False) -> Outcome:
        """Solves problems greedily, timed: all at once, or each after the one before.

        Raises:
            JudgeError: the engine died.
        """
        prompts = [render_prompt(problem.question) for problem in problems]
        timed = self.answer(prompts, at_a_time=1 if one_by_one else None)
        return Outcome.of(problems, timed.texts, timed.tokens, timed.seconds, timed.before, timed.after)
