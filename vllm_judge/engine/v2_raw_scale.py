"""How a request's raw logits follow from its processed ones on model runner V2, where temperature alone made those."""

from collections.abc import Callable
from typing import Any


def with_raw_scale(sampler: Any) -> Callable[[int, Any], float]:
    """`add_request` of vLLM's V2 sampler, which then returns the request's `raw_scale` (kernels/inputs.py, Requests).

    vLLM asks each stage whether it processes the request's logits and keeps one answer for all. Temperature's is held
    back while it asks, so that the answer is that of all the others, and added afterwards.
    """
    sampling, needs_processing = sampler.sampling_states, sampler.needs_logits_processing
    add_request, add_sampling = sampler.add_request, sampling.add_request

    def add_sampling_but_temperature(req_idx: int, sampling_params: Any) -> bool:
        return add_sampling(req_idx, sampling_params) and bool(
            sampling.min_p.np[req_idx] != 0.0
            or sampling.top_k.np[req_idx] != sampling.vocab_size
            or sampling.top_p.np[req_idx] != 1.0
        )

    def add(req_idx: int, sampling_params: Any) -> float:
        add_request(req_idx, sampling_params)
        temperature = sampling_params.temperature
        raw_scale = 0.0 if needs_processing[req_idx] else temperature or 1.0
        needs_processing[req_idx] |= temperature not in (0.0, 1.0)
        return raw_scale

    sampling.add_request = add_sampling_but_temperature
    return add
