"""The statistics launch: what a decision needs of logits and hidden states, each read once.

Mirrors `_compute_local_logits_stats_kernel` of vLLM's `rejection_sampler_utils` expression by expression, with its
block size and number of warps: a sum of floats depends on its order, and a judge that accepts nothing must leave vLLM's
tokens as they are. The judge adds one program per row (the dot product of the draft's own hidden state and the weights)
and, for a head that reads evidence, sums over logits: those that the program holds in registers already, unless more
than temperature made them.
"""

import torch
from vllm.platforms import current_platform
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import _compute_max_and_sumexp

from vllm_judge.kernels.evidence import store_raw_sums
from vllm_judge.kernels.inputs import Logits, Requests, Statistics

# vLLM's own.
VOCAB_BLOCK_SIZE = 8192
# A pass over hidden state and weights needs no more registers than a block of logits.
HIDDEN_BLOCK_SIZE = 4096
# Three programs fit on a multiprocessor of 65,536 registers. Where rows begin at any address, some versions of the
# compiler take more if they are not told.
CUDA_OPTIONS = {"maxnreg": 168}


@triton.jit
def _hidden_dot_weight(hidden_row_ptr, weight_ptr, hidden_size, BLOCK_SIZE: tl.constexpr):
    """w . h in fp32; the hidden state may be bf16 or fp16."""
    products = tl.zeros((BLOCK_SIZE,), tl.float32)
    for start in range(0, hidden_size, BLOCK_SIZE):
        offsets = start + tl.arange(0, BLOCK_SIZE)
        mask = offsets < hidden_size
        hidden = tl.load(hidden_row_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        products += hidden * weight
    return tl.sum(products, axis=0)


@triton.jit
def _judged_logits_stats_kernel(
    out,  # Statistics
    logits,  # Logits
    requests,  # Requests
    hidden_ptr,  # [num_tokens, H]
    hidden_stride,
    hidden_rows_ptr,  # [num_logits]
    weight_ptr,  # [H]
    bias_ptr,  # []
    expanded_idx_mapping_ptr,  # [num_logits]
    expanded_local_pos_ptr,  # [num_logits]
    vocab_size,
    hidden_size,
    num_speculative_steps,
    BLOCK_SIZE: tl.constexpr,
    HIDDEN_BLOCK_SIZE: tl.constexpr,
    HAS_DRAFT_LOGITS: tl.constexpr,
    HAS_EVIDENCE: tl.constexpr,
):
    """vLLM's `_compute_local_logits_stats_kernel`, with the judge's score and the evidence's sums."""
    logit_idx = tl.program_id(0).to(tl.int64)
    draft_step_idx = tl.load(expanded_local_pos_ptr + logit_idx)
    req_state_idx = tl.load(expanded_idx_mapping_ptr + logit_idx).to(tl.int64)
    is_judged = tl.load(requests.threshold + req_state_idx) < float("inf")

    # The judge's program comes first in the launch: it is the longest where the hidden size is large.
    block_idx = tl.program_id(1) - 1
    if block_idx < 0:
        # A row at local position 0 has consumed the request's last token, which is no draft.
        if is_judged & (draft_step_idx > 0):
            hidden_row = tl.load(hidden_rows_ptr + logit_idx).to(tl.int64)
            score = _hidden_dot_weight(
                hidden_ptr + hidden_row * hidden_stride, weight_ptr, hidden_size, HIDDEN_BLOCK_SIZE
            )
            tl.store(out.judge_score + logit_idx, score + tl.load(bias_ptr).to(tl.float32))
        return

    if draft_step_idx >= num_speculative_steps:
        # The bonus row verifies no draft.
        return

    temp = tl.load(requests.temperature + req_state_idx).to(tl.float32)
    block_offsets = block_idx * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = block_offsets < vocab_size
    partial = logit_idx * out.num_blocks + block_idx

    target_logits = tl.load(
        logits.target + logit_idx * logits.target_stride + block_offsets,
        mask=mask,
        other=float("-inf"),
    ).to(tl.float32)
    if temp == 0.0:
        target_max, idx = tl.max(target_logits, axis=0, return_indices=True)
        token_id = block_idx * BLOCK_SIZE + idx
        tl.store(out.target_argmax + partial, token_id)
    else:
        target_max, target_sumexp = _compute_max_and_sumexp(target_logits)
        tl.store(out.target_sumexp + partial, target_sumexp)
    tl.store(out.target_max + partial, target_max)

    # Evidence before the draft's logits: one block of them at a time is held in registers.
    if HAS_EVIDENCE and is_judged:
        raw_scale = tl.load(requests.raw_scale + req_state_idx)
        if raw_scale == 0.0:
            raw_logits = tl.load(
                logits.raw + logit_idx * logits.raw_stride + block_offsets,
                mask=mask,
                other=float("-inf"),
            ).to(tl.float32)
            store_raw_sums(raw_logits, tl.max(raw_logits, axis=0), 1.0, out, partial)
        else:
            # Not one variable for both: the two loads may differ in layout, and joining them costs an exchange.
            store_raw_sums(target_logits, target_max, raw_scale, out, partial)

    if HAS_DRAFT_LOGITS and temp != 0.0:
        # draft_logits is stored before temperature.
        draft_logits = (
            tl.load(
                logits.draft
                + req_state_idx * logits.draft_stride_0
                + draft_step_idx * logits.draft_stride_1
                + block_offsets,
                mask=mask,
                other=float("-inf"),
            ).to(tl.float32)
            / temp
        )
        draft_max, draft_sumexp = _compute_max_and_sumexp(draft_logits)
        tl.store(out.draft_max + partial, draft_max)
        tl.store(out.draft_sumexp + partial, draft_sumexp)


def compute_statistics(
    logits: Logits,
    requests: Requests,
    hidden: torch.Tensor,
    hidden_rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    expanded_idx_mapping: torch.Tensor,
    expanded_local_pos: torch.Tensor,
    num_speculative_steps: int,
    *,
    with_evidence: bool,
) -> Statistics:
    """One launch; arguments as in `verify.judged_rejection_sample`."""
    num_logits = logits.target.shape[0]
    num_blocks = triton.cdiv(logits.vocab_size, VOCAB_BLOCK_SIZE)
    statistics = Statistics.empty(num_logits, num_blocks, logits.target.device, with_evidence=with_evidence)
    _judged_logits_stats_kernel[(num_logits, num_blocks + 1)](
        statistics,
        logits,
        requests,
        hidden,
        hidden.stride(0),
        hidden_rows,
        weight,
        bias,
        expanded_idx_mapping,
        expanded_local_pos,
        logits.vocab_size,
        hidden.shape[-1],
        num_speculative_steps,
        BLOCK_SIZE=VOCAB_BLOCK_SIZE,
        HIDDEN_BLOCK_SIZE=min(HIDDEN_BLOCK_SIZE, triton.next_power_of_2(hidden.shape[-1])),
        HAS_DRAFT_LOGITS=logits.draft is not None,
        HAS_EVIDENCE=with_evidence,
        **(CUDA_OPTIONS if current_platform.is_cuda() else {}),
    )
    return statistics
