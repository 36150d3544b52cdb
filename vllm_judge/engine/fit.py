"""Whether the vLLM that is installed is as the contract says."""

import functools
from pathlib import Path

import vllm
from vllm.logger import init_logger

from vllm_judge.engine.contract import BOTH, HOOKED, KERNELS, PROMPT_STATES, V1, V2, Expectation, Sources, Text
from vllm_judge.engine.hook import mismatch
from vllm_judge.errors import JudgeConfigError

logger = init_logger("vllm.judge")


def check_hooks() -> None:
    """Raises JudgeConfigError where what the hooks wrap, read and call has changed."""
    _refuse([found for function in HOOKED if (found := mismatch(function))] + _misfits(BOTH))


def check_runner(use_v2: bool) -> None:
    """Raises JudgeConfigError where what a judge in a model runner builds on has changed; warns where a text has: what
    vLLM accepts by itself may then differ from what a judged engine accepts strictly."""
    expectations = (*V2, *KERNELS) if use_v2 else V1
    _refuse(_misfits(tuple(e for e in expectations if not isinstance(e, Text))))
    if changed := _misfits(tuple(e for e in expectations if isinstance(e, Text))):
        logger.warning("judge: strict decisions may differ from vLLM's own: %s.", "; ".join(changed))


def check_prompt_states() -> None:
    """Raises JudgeConfigError where what reads hidden states of prompts builds on has changed."""
    _refuse(_misfits(PROMPT_STATES))


# An installation does not change while it runs, and reading it takes half a second.
@functools.cache
def _misfits(expectations: tuple[Expectation, ...]) -> list[str]:
    sources = Sources(Path(vllm.__file__).parents[1])
    return [problem for expected in expectations if (problem := expected.mismatch(expected.find(sources)))]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise JudgeConfigError(f"judge: this version of vllm-judge does not fit this vLLM: {'; '.join(problems)}.")
