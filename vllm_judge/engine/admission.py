"""Hook of a request's admission: what a judged request may not carry is refused before it is scheduled."""

from collections.abc import Callable
from typing import Any

from vllm_judge.engine import dial
from vllm_judge.engine.configuration import judge_config
from vllm_judge.engine.judge import MAX_STOP_TOKEN_IDS


def validate_request(original: Callable[..., None], self: Any, speculative_config: Any) -> None:
    """Symptom: a malformed dial value would fail in the worker and take the engine down. Why: vLLM does not look into
    extra_args. How: it is read once at admission, and refused there (HTTP 400). Until: vLLM lets plugins validate
    (no issue upstream)."""
    from vllm.exceptions import VLLMValidationError

    original(self, speculative_config)
    config = judge_config(speculative_config)
    if config is None:
        return
    try:
        dial.request_threshold(self.extra_args, config.threshold)
    except dial.DialError as error:
        raise VLLMValidationError(str(error)) from None
    own_stops = self.all_stop_token_ids - set(config.protected_token_ids)
    if len(own_stops) > MAX_STOP_TOKEN_IDS:
        raise VLLMValidationError(
            f"a judged request may have at most {MAX_STOP_TOKEN_IDS} stop_token_ids, found {len(own_stops)}."
        )
