"""Hooks that repair vLLM on CPU, model runner V1, for every speculative engine, judged or not."""

from collections.abc import Callable
from typing import Any


def expand_batch_to_tokens(
    original: Callable[..., Any],
    x: Any,
    cu_num_tokens: Any,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> Any:
    """Symptom: on CPU, V1, temperature, top-k and top-p of speculative requests are uninitialised memory. Why: vLLM's
    stand-in for the kernel (cpu_triton_utils._expand_kernel_impl) casts to int64 and drops the result. How: the same in
    PyTorch, on CPU without Triton only. Until: vLLM repairs it (vllm-project/vllm#55005, #55006; not in 0.33)."""
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    if HAS_TRITON or not current_platform.is_cpu():
        return original(x, cu_num_tokens, num_tokens, replace_from, replace_to)
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(counts, output_size=num_tokens)


def apply_sampling_constraints(original: Callable[..., Any], logits: Any, *args: Any, **kwargs: Any) -> Any:
    """Symptom: on CPU, V1, a request with top_k takes the engine down. Why: a step without drafts (a prefill) verifies
    zero rows, and vLLM's top-k takes their maximum. How: zero rows are returned as they are. Until: vLLM repairs it
    (not in 0.33; no issue upstream), or V1 ends (V2 on CPU in PyTorch: #55847)."""
    return logits if len(logits) == 0 else original(logits, *args, **kwargs)
