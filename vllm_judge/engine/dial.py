"""What a request says to the judge: `judge`, `judge_threshold`, `judge_mode` and `judge_scope` in
SamplingParams.extra_args (HTTP: vllm_xargs), and its own stop tokens."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from vllm_judge.config import MODES, SCOPES, SHADOW, THINKING, JudgeConfig
from vllm_judge.errors import DialError
from vllm_judge.head import logit

SWITCH, THRESHOLD, MODE, SCOPE = "judge", "judge_threshold", "judge_mode", "judge_scope"
# vLLM's HTTP schema knows no booleans in vllm_xargs: true may arrive as 1, 1.0 or "true".
_SWITCH_VALUES = {True: True, False: False, "true": True, "false": False}
# As many stop tokens of its own as a judged request may have; vLLM bounds them alike where min_tokens is used.
MAX_STOP_TOKEN_IDS = 128


class Dial(NamedTuple):
    """One request's settings.

    Attributes:
        threshold: log-odds above which the judge accepts; +inf where the request is to be decoded strictly.
        stop_token_ids: tokens that only the strict test may accept, beyond the engine's protected ones; at most
            MAX_STOP_TOKEN_IDS.
        shadow: whether the request is decoded strictly, and what the judge would have let pass is counted.
        thinking_only: whether the judge may accept inside the request's reasoning part only.
    """

    threshold: float
    stop_token_ids: tuple[int, ...]
    shadow: bool = False
    thinking_only: bool = False


STRICT = Dial(math.inf, ())


def read(sampling_params: Any, config: JudgeConfig) -> Dial:
    """The dial of a request.

    Args:
        sampling_params: vLLM's SamplingParams.
        config: the engine's, by which a request is decoded that says nothing else.

    Raises:
        DialError: `judge` is not a boolean, `judge_threshold` not a number from 0 to 1, `judge_mode` or `judge_scope`
            not one of theirs, the engine does not know what reasoning is, or there are more stop tokens than a judged
            request may have.
    """
    extra_args = sampling_params.extra_args or {}
    threshold = _threshold(extra_args, config.threshold)
    mode, scope = _one_of(MODES, extra_args, MODE, config.mode), _one_of(SCOPES, extra_args, SCOPE, config.scope)
    if scope == THINKING and config.thinking is None:
        raise DialError(
            f"{SCOPE} {THINKING!r} needs an engine that knows what begins and ends reasoning: "
            "serve the model with --reasoning-parser or --reasoning-config."
        )
    if threshold == math.inf:
        return STRICT
    stop_token_ids = sampling_params.all_stop_token_ids.difference(config.protected_token_ids)
    if len(stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise DialError(
            f"a judged request may have at most {MAX_STOP_TOKEN_IDS} stop_token_ids, found {len(stop_token_ids)}."
        )
    return Dial(threshold, tuple(sorted(stop_token_ids)), mode == SHADOW, scope == THINKING)


def _one_of(values: tuple[str, str], extra_args: Mapping[str, Any], name: str, default: str) -> str:
    found = extra_args.get(name, default)
    if not isinstance(found, str) or found not in values:
        raise DialError(f"{name} must be {' or '.join(map(repr, values))}, found {reprlib.repr(found)}.")
    return found


def _threshold(extra_args: Mapping[str, Any], default: float) -> float:
    switch = extra_args.get(SWITCH, True)
    if not isinstance(switch, bool | int | float | str) or switch not in _SWITCH_VALUES:
        raise DialError(f"{SWITCH} must be true or false, found {reprlib.repr(switch)}.")
    threshold = extra_args.get(THRESHOLD, default)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise DialError(f"{THRESHOLD} must be a number from 0 to 1, found {reprlib.repr(threshold)}.")
    return logit(threshold) if _SWITCH_VALUES[switch] else math.inf
