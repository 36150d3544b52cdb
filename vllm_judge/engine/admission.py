"""Hooks of a request's admission: what a judged request may not carry is refused before it is scheduled."""

from collections.abc import Callable
from typing import Any

from vllm_judge.engine import dial
from vllm_judge.engine.configuration import judge_config
from vllm_judge.errors import DialError


def validate_request(original: Callable[..., None], self: Any, speculative_config: Any) -> None:
    """Symptom: a malformed dial would be found where nobody can be told. Why: vLLM does not look into extra_args.
    How: it is read once in the front end, and refused there (HTTP 400). Until: vLLM lets plugins validate (no issue
    upstream)."""
    original(self, speculative_config)
    _refuse(self, speculative_config)


def preprocess_add_request(original: Callable[..., Any], self: Any, request: Any) -> Any:
    """Symptom: a malformed dial reaches the workers. Why: vLLM's Rust front end (VLLM_USE_RUST_FRONTEND=1, in 0.33)
    validates requests itself, without plugins. How: the same check where EngineCore takes every request; vLLM answers
    what is raised here with an error of that one request. Until: vLLM lets plugins validate there (no issue
    upstream)."""
    if request.sampling_params is not None:
        _refuse(request.sampling_params, self.vllm_config.speculative_config)
    return original(self, request)


def _refuse(sampling_params: Any, speculative_config: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    config = judge_config(speculative_config)
    if config is None:
        return
    try:
        dial.read(sampling_params, config.threshold, config.protected_token_ids)
    except DialError as error:
        raise VLLMValidationError(str(error)) from None
