"""The per-request dial: `judge` and `judge_threshold` in SamplingParams.extra_args (HTTP: vllm_xargs)."""

import math
from collections.abc import Mapping
from typing import Any

from vllm_judge.errors import DialError
from vllm_judge.head import logit

SWITCH, THRESHOLD = "judge", "judge_threshold"
# vLLM's HTTP schema knows no booleans in vllm_xargs: true may arrive as 1, 1.0 or "true".
_SWITCH_VALUES = {True: True, False: False, "true": True, "false": False}


def request_threshold(extra_args: Mapping[str, Any] | None, default: float) -> float:
    """The score above which the judge accepts, for one request.

    Args:
        extra_args: the request's extra arguments.
        default: the engine's threshold, a probability in [0, 1].

    Returns:
        log-odds; +inf where the request is to be decoded strictly.

    Raises:
        DialError: `judge` is not a boolean, or `judge_threshold` not a number from 0 to 1.
    """
    if not extra_args:
        return logit(default)
    switch = extra_args.get(SWITCH, True)
    if not isinstance(switch, bool | int | float | str) or switch not in _SWITCH_VALUES:
        raise DialError(f"{SWITCH} must be true or false, found {switch!r}.")
    threshold = extra_args.get(THRESHOLD, default)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise DialError(f"{THRESHOLD} must be a number from 0 to 1, found {threshold!r}.")
    return logit(threshold) if _SWITCH_VALUES[switch] else math.inf
