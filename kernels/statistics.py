"""The statistics launch: what a decision needs of logits and hidden states, each read once.

Mirrors `_compute_local_logits_stats_kernel` of vLLM's `rejection_sampler_utils` expression by expression, with its
block size and number of warps: a sum of floats depends on its order, and a judge that accepts nothing must leave vLLM's
tokens as they are. The judge adds one program per row (the dot product of the draft's own hidden state and the weights)
and, for a head that reads evidence, sums over logits that the program holds in registers already.
"""

from typing import NamedTuple

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import _compute_max_and_sumexp

# vLLM's own.
VOCAB_BLOCK_SIZE = 8192
# A pass over hidden state and weights needs no more registers than a block of logits.
HIDDEN_BLOCK_SIZE = 4096


class Partials(NamedTuple):
    """Per row and vocabulary block, [num_logits, num_blocks] fp32 except `target_argmax` (int64).

    The sums are relative to their block's maximum m: sumexp = sum exp(x - m), xsumexp = sum (x - m) exp(x - m). The
    raw ones are None for a head without evidence.
    """

    target_argmax: torch.Tensor
    target_max: torch.Tensor
    target_sumexp: torch.Tensor
    draft_max: torch.Tensor
    draft_sumexp: torch.Tensor
    raw_max: torch.Tensor | None
    raw_sumexp: torch.Tensor | None
    raw_xsumexp: torch.Tensor | None

    @classmethod
    def empty(cls, like: torch.Tensor, num_logits: int, num_blocks: int, with_evidence: bool) -> "Partials":
        def new(dtype: torch.dtype) -> torch.Tensor:
            return like.new_empty(num_logits, num_blocks, dtype=dtype)

        raw = [new(torch.float32) if with_evidence else None for _ in range(3)]
        return cls(new(torch.int64), *(new(torch.float32) for _ in range(4)), *raw)


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
def _store_raw_statistics(logits, raw_max_ptr, raw_sumexp_ptr, raw_xsumexp_ptr, offset):
    """Stores what log p, entropy and p_max need of one block of raw logits (-inf: probability zero)."""
    max = tl.max(logits, axis=0)
    # A block of nothing but -inf adds nothing to either sum; a NaN logit makes `sumexp` NaN.
    centered = logits - tl.where(max == float("-inf"), 0.0, max)
    exp = tl.exp(centered)
    # In this order `centered` need not outlive the first sum: a tenth of the registers.
    xsumexp = tl.sum(tl.where(centered > float("-inf"), centered * exp, 0.0), axis=0)
    sumexp = tl.sum(exp, axis=0)
    tl.store(raw_max_ptr + offset, max)
    tl.store(raw_sumexp_ptr + offset, sumexp)
    tl.store(raw_xsumexp_ptr + offset, xsumexp)


@triton.jit
def _judged_logits_stats_kernel(
    judge_score_ptr,  # out: [num_logits]
    target_argmax_ptr,  # out: [num_logits, num_blocks] each, see Partials
    target_max_ptr,
    target_sumexp_ptr,
    draft_max_ptr,
    draft_sumexp_ptr,
    raw_max_ptr,
    raw_sumexp_ptr,
    raw_xsumexp_ptr,
    partials_stride,
    target_logits_ptr,  # [num_logits, V]
    target_logits_stride,
    raw_logits_ptr,  # [num_logits, V]
    raw_logits_stride,
    raw_differs_ptr,  # [max_num_reqs]
    draft_logits_ptr,  # [max_num_reqs, num_speculative_steps, V]
    draft_logits_stride_0,
    draft_logits_stride_1,
    hidden_ptr,  # [num_tokens, H]
    hidden_stride,
    hidden_rows_ptr,  # [num_logits]
    weight_ptr,  # [H]
    bias_ptr,  # []
    threshold_ptr,  # [max_num_reqs]
    expanded_idx_mapping_ptr,  # [num_logits]
    expanded_local_pos_ptr,  # [num_logits]
    temp_ptr,  # [max_num_reqs]
    vocab_size,
    hidden_size,
    num_speculative_steps,
    BLOCK_SIZE: tl.constexpr,
    HIDDEN_BLOCK_SIZE: tl.constexpr,
    HAS_DRAFT_LOGITS: tl.constexpr,
    HAS_EVIDENCE: tl.constexpr,
):
    """vLLM's `_compute_local_logits_stats_kernel`, with the judge's score and the evidence's statistics."""
    logit_idx = tl.program_id(0).to(tl.int64)
    draft_step_idx = tl.load(expanded_local_pos_ptr + logit_idx)
    req_state_idx = tl.load(expanded_idx_mapping_ptr + logit_idx).to(tl.int64)
    is_judged = tl.load(threshold_ptr + req_state_idx) < float("inf")

    # The judge's program comes first in the launch: it is the longest where the hidden size is large.
    block_idx = tl.program_id(1) - 1
    if block_idx < 0:
        # A row at local position 0 has consumed the request's last token, which is no draft.
        if is_judged & (draft_step_idx > 0):
            hidden_row = tl.load(hidden_rows_ptr + logit_idx).to(tl.int64)
            score = _hidden_dot_weight(
                hidden_ptr + hidden_row * hidden_stride, weight_ptr, hidden_size, HIDDEN_BLOCK_SIZE
            )
            tl.store(judge_score_ptr + logit_idx, score + tl.load(bias_ptr).to(tl.float32))
        return

    if draft_step_idx >= num_speculative_steps:
        # The bonus row verifies no draft.
        return

    temp = tl.load(temp_ptr + req_state_idx).to(tl.float32)
    block_offsets = block_idx * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = block_offsets < vocab_size
    partial = logit_idx * partials_stride + block_idx

    target_logits = tl.load(
        target_logits_ptr + logit_idx * target_logits_stride + block_offsets,
        mask=mask,
        other=float("-inf"),
    ).to(tl.float32)
    if temp == 0.0:
        value, idx = tl.max(target_logits, axis=0, return_indices=True)
        token_id = block_idx * BLOCK_SIZE + idx
        tl.store(target_argmax_ptr + partial, token_id)
        tl.store(target_max_ptr + partial, value)
    else:
        target_max, target_sumexp = _compute_max_and_sumexp(target_logits)
        tl.store(target_max_ptr + partial, target_max)
        tl.store(target_sumexp_ptr + partial, target_sumexp)
        if HAS_DRAFT_LOGITS:
            # draft_logits is stored before temperature.
            draft_logits = (
                tl.load(
                    draft_logits_ptr
                    + req_state_idx * draft_logits_stride_0
                    + draft_step_idx * draft_logits_stride_1
                    + block_offsets,
                    mask=mask,
                    other=float("-inf"),
                ).to(tl.float32)
                / temp
            )
            draft_max, draft_sumexp = _compute_max_and_sumexp(draft_logits)
            tl.store(draft_max_ptr + partial, draft_max)
            tl.store(draft_sumexp_ptr + partial, draft_sumexp)

    if HAS_EVIDENCE and is_judged:
        if tl.load(raw_differs_ptr + req_state_idx) != 0:
            raw_logits = tl.load(
                raw_logits_ptr + logit_idx * raw_logits_stride + block_offsets,
                mask=mask,
                other=float("-inf"),
            ).to(tl.float32)
            _store_raw_statistics(raw_logits, raw_max_ptr, raw_sumexp_ptr, raw_xsumexp_ptr, partial)
        else:
            # Not one variable for both: the two loads may differ in layout, and joining them costs an exchange.
            _store_raw_statistics(target_logits, raw_max_ptr, raw_sumexp_ptr, raw_xsumexp_ptr, partial)


def compute_statistics(
    target_logits: torch.Tensor,
    raw_logits: torch.Tensor,
    raw_differs: torch.Tensor,
    draft_logits: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    expanded_idx_mapping: torch.Tensor,
    expanded_local_pos: torch.Tensor,
    temperature: torch.Tensor,
    vocab_size: int,
    num_speculative_steps: int,
    *,
    with_evidence: bool,
) -> tuple[torch.Tensor, Partials]:
    """One launch; arguments as in `verify.judged_rejection_sample`, `vocab_size` cut to the draft's.

    Returns:
        The judge's scores without evidence, [num_logits] fp32, indexed by the draft's own row and unset where there is
        no draft or no judge; and the statistics of each verifying row.
    """
    num_logits = target_logits.shape[0]
    num_blocks = triton.cdiv(vocab_size, VOCAB_BLOCK_SIZE)
    judge_scores = target_logits.new_empty(num_logits, dtype=torch.float32)
    partials = Partials.empty(target_logits, num_logits, num_blocks, with_evidence)
    _judged_logits_stats_kernel[(num_logits, num_blocks + 1)](
        judge_scores,
        *partials,
        num_blocks,
        target_logits,
        target_logits.stride(0),
        raw_logits,
        raw_logits.stride(0),
        raw_differs.view(torch.uint8),
        draft_logits,
        *draft_strides(draft_logits),
        hidden,
        hidden.stride(0),
        hidden_rows,
        weight,
        bias,
        threshold,
        expanded_idx_mapping,
        expanded_local_pos,
        temperature,
        vocab_size,
        hidden.shape[-1],
        num_speculative_steps,
        BLOCK_SIZE=VOCAB_BLOCK_SIZE,
        HIDDEN_BLOCK_SIZE=min(HIDDEN_BLOCK_SIZE, triton.next_power_of_2(hidden.shape[-1])),
        HAS_DRAFT_LOGITS=draft_logits is not None,
        HAS_EVIDENCE=with_evidence,
    )
    return judge_scores, partials


def draft_strides(draft_logits: torch.Tensor | None) -> tuple[int, int]:
    """Strides of request and step, zero where there are no draft logits."""
    return (0, 0) if draft_logits is None else (draft_logits.stride(0), draft_logits.stride(1))
