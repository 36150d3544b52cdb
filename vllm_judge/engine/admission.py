"""Hooks of a request's admission: what a judged request may not carry is refused before it is scheduled, and of those
that say nothing, some are put into shadow."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

from vllm_judge.config import SHADOW, JudgeConfig, judge_config
from vllm_judge.engine import dial
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
        speculative_config = self.vllm_config.speculative_config
        _refuse(request.sampling_params, speculative_config)
        config = judge_config(speculative_config)
        if config is not None and config.share < 1.0:
            _share_out(request, config)
    return original(self, request)


def _refuse(sampling_params: Any, speculative_config: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    config = judge_config(speculative_config)
    if config is None:
        return
    try:
        dial.read(sampling_params, config)
    except DialError as error:
        raise VLLMValidationError(str(error)) from None


def _share_out(request: Any, config: JudgeConfig) -> None:
    """Puts a request that names no mode into shadow, unless it is of the share that is judged.

    The id is the client's: vLLM adds random characters to it for its own use, and a prefix for each of n answers, which
    would judge one attempt or answer and not the next.
    """
    given = request.sampling_params.extra_args or {}
    if dial.MODE not in given and not is_judged(request.external_req_id or request.request_id, config.share):
        request.sampling_params = copy.copy(request.sampling_params)
        request.sampling_params.extra_args = {**given, dial.MODE: SHADOW}


def is_judged(request_id: str, share: float) -> bool:
    """Whether a request is of the share of requests that is judged: the same in every process, and after a restart."""
    digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
