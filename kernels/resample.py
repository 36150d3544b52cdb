"""The last two launches, vLLM's own kernels: the target's own token after each accepted prefix.

They are launched by parameter name: a version of vLLM that renames or adds one fails here, loudly.
"""

import torch
from vllm.triton_utils import triton
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import _insert_resampled_kernel, _resample_kernel

from vllm_judge.kernels.inputs import Logits
from vllm_judge.kernels.rejection import Prefixes

# vLLM's own.
RESAMPLE_BLOCK_SIZE = 1024
# What vLLM's resample kernel can do besides, and no judge is combined with.
NO_BLOCK_VERIFICATION = {"cumulative_log_p_ptr": None, "USE_BLOCK_VERIFICATION": False}
NO_WATERMARK = {
    "contexts_ptr": None,
    "contexts_stride": 0,
    "watermarking_ptr": None,
    "watermarking_skip_mask_ptr": None,
    "watermark_key_0": 0,
    "watermark_key_1": 0,
    "CONTEXT_WIDTH": 1,
    "WATERMARK": False,
    "DEDUPLICATE_CONTEXTS": False,
}


def append_own_tokens(
    prefixes: Prefixes,
    logits: Logits,
    draft_sampled: torch.Tensor,
    cu_num_logits: torch.Tensor,
    expanded_idx_mapping: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    pos: torch.Tensor,
    *,
    use_fp64: bool,
) -> None:
    """Two launches, after which `sampled` is complete and `num_accepted` counts the own token too."""
    num_reqs, num_blocks = prefixes.sampled.shape[0], triton.cdiv(logits.vocab_size, RESAMPLE_BLOCK_SIZE)
    block_argmax = prefixes.sampled.new_empty(num_reqs, num_blocks)
    block_max = block_argmax.new_empty(block_argmax.shape, dtype=torch.float64 if use_fp64 else torch.float32)
    shared = {
        "resampled_local_argmax_ptr": block_argmax,
        "resampled_local_argmax_stride": block_argmax.stride(0),
        "resampled_local_max_ptr": block_max,
        "resampled_local_max_stride": block_max.stride(0),
        "cu_num_logits_ptr": cu_num_logits,
        "expanded_idx_mapping_ptr": expanded_idx_mapping,
        "temp_ptr": temperature,
    }
    _resample_kernel[(num_reqs, num_blocks)](
        **shared,
        target_logits_ptr=logits.target,
        target_logits_stride=logits.target_stride,
        target_rejected_logsumexp_ptr=prefixes.target_logsumexp,
        draft_logits_ptr=logits.draft,
        draft_logits_stride_0=logits.draft_stride_0,
        draft_logits_stride_1=logits.draft_stride_1,
        draft_rejected_logsumexp_ptr=prefixes.draft_logsumexp,
        rejected_step_ptr=prefixes.num_accepted,
        draft_sampled_ptr=draft_sampled,
        seed_ptr=seed,
        pos_ptr=pos,
        vocab_size=logits.vocab_size,
        BLOCK_SIZE=RESAMPLE_BLOCK_SIZE,
        HAS_DRAFT_LOGITS=logits.draft is not None,
        USE_FP64=use_fp64,
        **NO_BLOCK_VERIFICATION,
        **NO_WATERMARK,
    )
    _insert_resampled_kernel[(num_reqs,)](
        **shared,
        sampled_ptr=prefixes.sampled,
        sampled_stride=prefixes.sampled_stride,
        num_sampled_ptr=prefixes.num_accepted,
        resample_num_blocks=num_blocks,
        PADDED_RESAMPLE_NUM_BLOCKS=triton.next_power_of_2(num_blocks),
    )
