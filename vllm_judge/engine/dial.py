"""What a request says to the judge: `judge` and `judge_threshold` in SamplingParams.extra_args (HTTP: vllm_xargs), and
its own stop tokens."""

import math
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from vllm_judge.errors import DialError
from vllm_judge.head import logit

SWITCH, THRESHOLD = "judge", "judge_threshold"
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
    """

    threshold: float
    stop_token_ids: tuple[int, ...]


STRICT = Dial(math.inf, ())


def read(sampling_params: Any, default: float, protected: Collection[int]) -> Dial:
    """The dial of a request.

    Args:
        sampling_params: vLLM's SamplingParams.
        default: the engine's threshold, a probability in [0, 1].
        protected: the tokens that the judge accepts for no request.

    Raises:
        DialError: `judge` is not a boolean, `judge_threshold` not a number from 0 to 1, or there are more stop tokens
            than a judged request may have.
    """
    threshold = _threshold(sampling_params.extra_args or {}, default)
    if threshold == math.inf:
        return STRICT
    stop_token_ids = sampling_params.all_stop_token_ids.difference(protected)
    if len(stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise DialError(
            f"a judged request may have at most {MAX_STOP_TOKEN_IDS} stop_token_ids, found {len(stop_token_ids)}."
        )
    return Dial(threshold, tuple(sorted(stop_token_ids)))


def _threshold(extra_args: Mapping[str, Any], default: float) -> float:
    switch = extra_args.get(SWITCH, True)
    if not isinstance(switch, bool | int | float | str) or switch not in _SWITCH_VALUES:
        raise DialError(f"{SWITCH} must be true or false, found {reprlib.repr(switch)}.")
    threshold = extra_args.get(THRESHOLD, default)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise DialError(f"{THRESHOLD} must be a number from 0 to 1, found {reprlib.repr(threshold)}.")
    return logit(threshold) if _SWITCH_VALUES[switch] else math.inf
