"""Judge Decoding's verification for vLLM's model runner V2: vLLM's four launches, with the judge inside them.

`judged_rejection_sample` stands where vLLM calls `rejection_sample` of `vllm.v1.worker.gpu.spec_decode.
rejection_sampler_utils`, and launches what it launches:

    statistics   per row and vocabulary block: max, argmax and sum of exponentials     (statistics.py)
                 + the judge's dot product, as one program more per row, and the evidence's sums
    rejection    per request: the longest accepted prefix
                 + strict OR judge, where both decisions are known, so that `judge_only` is exact
    resample     vLLM's own kernel
    insert       vLLM's own kernel

Random numbers come from vLLM's functions, so a judge that accepts nothing leaves vLLM's tokens as they are. Nothing is
read back by the host. The rule itself is in reference.py, which the tests compare all of this with.
"""

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import tl_rand32
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import (
    _compute_global_logprobs_and_logsumexp,
    _compute_global_target_argmax,
    _insert_resampled_kernel,
    _resample_kernel,
)

from vllm_judge.kernels.statistics import compute_statistics, draft_strides

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


@triton.jit
def _evidence_dot_weight(
    raw_logit,
    raw_max_ptr,
    raw_sumexp_ptr,
    raw_xsumexp_ptr,
    partials_offset,
    evidence_weight_ptr,
    num_blocks,
    PADDED_NUM_BLOCKS: tl.constexpr,
):
    """v . e of one verified token (`reference.evidence`), from the statistics of its verifying row."""
    blocks = tl.arange(0, PADDED_NUM_BLOCKS)
    mask = blocks < num_blocks
    local_max = tl.load(raw_max_ptr + partials_offset + blocks, mask=mask, other=float("-inf"))
    local_sumexp = tl.load(raw_sumexp_ptr + partials_offset + blocks, mask=mask, other=0.0)
    local_xsumexp = tl.load(raw_xsumexp_ptr + partials_offset + blocks, mask=mask, other=0.0)

    # Move every block's sums from its own maximum to the row's. A block of nothing but -inf has sums of zero.
    max = tl.max(local_max, axis=0)
    shift = tl.where(local_max == float("-inf"), 0.0, local_max - max)
    scale = tl.exp(shift)
    sumexp = tl.sum(local_sumexp * scale, axis=0)
    xsumexp = tl.sum((local_xsumexp + shift * local_sumexp) * scale, axis=0)

    log_sumexp = tl.log(sumexp)
    margin = max - raw_logit
    return (
        tl.load(evidence_weight_ptr) * (-margin - log_sumexp)
        + tl.load(evidence_weight_ptr + 1) * (log_sumexp - xsumexp / sumexp)
        + tl.load(evidence_weight_ptr + 2) * margin
        + tl.load(evidence_weight_ptr + 3) / sumexp
    )


@triton.jit
def _is_allowed(
    constrained_logit,
    draft_token,
    req_state_idx,
    protected_ptr,
    stop_token_ids_ptr,
    stop_token_ids_stride,
    num_stop_token_ids_ptr,
    PADDED_NUM_STOP_TOKEN_IDS: tl.constexpr,
):
    """Whether the judge may accept a (non-negative) draft token at all (`reference.allowed`)."""
    is_protected = tl.load(protected_ptr + draft_token) != 0
    index = tl.arange(0, PADDED_NUM_STOP_TOKEN_IDS)
    stop_token_ids = tl.load(
        stop_token_ids_ptr + req_state_idx * stop_token_ids_stride + index,
        mask=index < tl.load(num_stop_token_ids_ptr + req_state_idx),
        other=-1,
    )
    is_stop = tl.max((stop_token_ids == draft_token).to(tl.int32), axis=0) != 0
    # NaN > -inf is false.
    return (constrained_logit > float("-inf")) & (is_protected == 0) & (is_stop == 0)


@triton.jit
def _judged_rejection_kernel(
    sampled_ptr,  # out: [num_reqs, num_speculative_steps + 1]
    sampled_stride,
    num_accepted_ptr,  # out: [num_reqs]
    judge_only_ptr,  # out: [num_reqs]
    target_rejected_logsumexp_ptr,  # out: [num_reqs]
    draft_rejected_logsumexp_ptr,  # out: [num_reqs]
    target_argmax_ptr,  # [num_logits, num_blocks] each, see Partials
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
    draft_logits_ptr,  # [max_num_reqs, num_speculative_steps, V]
    draft_logits_stride_0,
    draft_logits_stride_1,
    draft_sampled_ptr,  # [num_logits]
    draft_constrained_ptr,  # [num_logits]
    judge_score_ptr,  # [num_logits]
    evidence_weight_ptr,  # [4]
    threshold_ptr,  # [max_num_reqs]
    protected_ptr,  # [V]
    stop_token_ids_ptr,  # [max_num_reqs, S]
    stop_token_ids_stride,
    num_stop_token_ids_ptr,  # [max_num_reqs]
    cu_num_logits_ptr,  # [num_reqs + 1]
    idx_mapping_ptr,  # [num_reqs]
    temp_ptr,  # [max_num_reqs]
    seed_ptr,  # [max_num_reqs]
    pos_ptr,  # [num_logits]
    num_blocks,
    PADDED_NUM_BLOCKS: tl.constexpr,
    PADDED_NUM_STOP_TOKEN_IDS: tl.constexpr,
    HAS_DRAFT_LOGITS: tl.constexpr,
    HAS_DRAFT_CONSTRAINED: tl.constexpr,
    HAS_EVIDENCE: tl.constexpr,
):
    """vLLM's `_rejection_kernel` (its standard method), where what the strict test rejects goes before the judge."""
    req_idx = tl.program_id(0)
    req_state_idx = tl.load(idx_mapping_ptr + req_idx).to(tl.int64)
    start_idx = tl.load(cu_num_logits_ptr + req_idx).to(tl.int64)
    end_idx = tl.load(cu_num_logits_ptr + req_idx + 1)
    num_draft_tokens = end_idx - start_idx - 1
    seed = tl.load(seed_ptr + req_state_idx)
    temp = tl.load(temp_ptr + req_state_idx).to(tl.float32)
    is_greedy = temp == 0.0
    threshold = tl.load(threshold_ptr + req_state_idx)
    is_judged = threshold < float("inf")

    accepted_length = tl.zeros((), tl.int64)
    judge_only = tl.zeros((), tl.int32)
    target_lse = 0.0
    draft_lse = 0.0
    verifying = True
    for i in range(num_draft_tokens):
        logit_idx = start_idx + i
        draft_sampled = tl.load(draft_sampled_ptr + logit_idx + 1).to(tl.int64)
        is_valid_draft = draft_sampled >= 0
        draft_sampled = tl.maximum(0, draft_sampled)
        if not is_greedy:
            # A placeholder ends verification. A greedy request stores the target's token at its first rejection, so
            # there the placeholder has to get as far as being rejected.
            verifying &= is_valid_draft
        if verifying:
            # What stays here when a sampled request rejects is overwritten by the insert kernel.
            token_if_rejected = draft_sampled
            if is_greedy:
                token_if_rejected = _compute_global_target_argmax(
                    target_max_ptr,
                    partials_stride,
                    target_argmax_ptr,
                    partials_stride,
                    logit_idx,
                    num_blocks,
                    PADDED_NUM_BLOCKS,
                )
                accepted = (token_if_rejected == draft_sampled) & is_valid_draft
            else:
                # Speculative sampling (Leviathan et al., 2023): p > u q, in logarithms.
                u = tl_rand32(seed, tl.load(pos_ptr + logit_idx), includes_zero=False)
                target_logprob, draft_logprob, target_lse, draft_lse = _compute_global_logprobs_and_logsumexp(
                    draft_sampled,
                    True,  # mask
                    logit_idx,
                    req_state_idx,
                    i,
                    temp,
                    target_logits_ptr,
                    target_logits_stride,
                    target_max_ptr,
                    partials_stride,
                    target_sumexp_ptr,
                    partials_stride,
                    draft_logits_ptr,
                    draft_logits_stride_0,
                    draft_logits_stride_1,
                    draft_max_ptr,
                    partials_stride,
                    draft_sumexp_ptr,
                    partials_stride,
                    num_blocks,
                    PADDED_NUM_BLOCKS,
                    HAS_DRAFT_LOGITS,
                )
                accepted = target_logprob > tl.log(u) + draft_logprob
            if is_judged & is_valid_draft & (accepted == 0):
                score = tl.load(judge_score_ptr + logit_idx + 1)
                if HAS_EVIDENCE:
                    score += _evidence_dot_weight(
                        tl.load(raw_logits_ptr + logit_idx * raw_logits_stride + draft_sampled).to(tl.float32),
                        raw_max_ptr,
                        raw_sumexp_ptr,
                        raw_xsumexp_ptr,
                        logit_idx * partials_stride,
                        evidence_weight_ptr,
                        num_blocks,
                        PADDED_NUM_BLOCKS,
                    )
                if HAS_DRAFT_CONSTRAINED:
                    constrained_logit = tl.load(draft_constrained_ptr + logit_idx + 1)
                else:
                    constrained_logit = tl.load(target_logits_ptr + logit_idx * target_logits_stride + draft_sampled)
                accepted = (score > threshold) & _is_allowed(
                    constrained_logit.to(tl.float32),
                    draft_sampled,
                    req_state_idx,
                    protected_ptr,
                    stop_token_ids_ptr,
                    stop_token_ids_stride,
                    num_stop_token_ids_ptr,
                    PADDED_NUM_STOP_TOKEN_IDS,
                )
                judge_only += accepted
            verifying = accepted
            accepted_length += accepted
            tl.store(sampled_ptr + req_idx * sampled_stride + i, draft_sampled if accepted else token_if_rejected)

    tl.store(num_accepted_ptr + req_idx, accepted_length)
    tl.store(judge_only_ptr + req_idx, judge_only)
    tl.store(target_rejected_logsumexp_ptr + req_idx, target_lse)
    tl.store(draft_rejected_logsumexp_ptr + req_idx, draft_lse)


def judged_rejection_sample(
    target_logits: torch.Tensor,
    draft_logits: torch.Tensor | None,
    draft_sampled: torch.Tensor,
    cu_num_logits: torch.Tensor,
    pos: torch.Tensor,
    idx_mapping: torch.Tensor,
    expanded_idx_mapping: torch.Tensor,
    expanded_local_pos: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    num_speculative_steps: int,
    *,
    use_fp64: bool,
    raw_logits: torch.Tensor,
    raw_differs: torch.Tensor,
    draft_constrained: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    evidence_weight: torch.Tensor | None,
    threshold: torch.Tensor,
    protected: torch.Tensor,
    stop_token_ids: torch.Tensor,
    num_stop_token_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Verifies a step's drafts: strict test OR judge (`reference.verify` for each request), in four launches.

    The arguments up to `num_speculative_steps`, and `use_fp64`, are those of vLLM's `rejection_sample` with its
    standard method; a logits row r > 0 of a request consumes the draft `draft_sampled[r]`, which row r - 1 verifies.
    No argument is modified. V is the target's vocabulary, cut to the draft's where that is smaller, as in vLLM.

    Args:
        target_logits: [num_logits, V] fp32, or the model's dtype where nothing processed them.
        draft_logits: [max_num_reqs, num_speculative_steps, >= V] before temperature, or None.
        draft_sampled: [num_logits] token ids, -1 for a placeholder.
        cu_num_logits: [num_reqs + 1]; pos: [num_logits]; idx_mapping: [num_reqs]; expanded_idx_mapping and
            expanded_local_pos: [num_logits]; temperature and seed: [max_num_reqs].
        use_fp64: whether resampling draws its noise in fp64.
        raw_logits: [num_logits, V] before any processing; `target_logits` itself where nothing processed them. Read
            for evidence only.
        raw_differs: [max_num_reqs] bool; whether a request's target logits differ from its raw ones, whose
            statistics are read from the target's where not.
        draft_constrained: [num_logits] fp32, indexed like `draft_sampled`: the token's logit at the row before, after
            constraints and before top-k and top-p. None: read it from `target_logits`, to which neither was applied.
        hidden: [num_tokens, H] bf16, fp16 or fp32; the whole step's, gathered by the kernel.
        hidden_rows: [num_logits] the row of `hidden` for each row of logits (vLLM's `logits_indices`).
        weight: [H] fp32; bias: [] fp32; evidence_weight: [4] fp32, or None for a head without.
        threshold: [max_num_reqs] fp32 log-odds; +inf: the request is verified strictly.
        protected: [V] bool; end-of-sequence and special tokens, which the judge never accepts.
        stop_token_ids: [max_num_reqs, S] int32, of which `num_stop_token_ids` [max_num_reqs] int32 count: a request's
            own tokens of that kind.

    Returns:
        sampled: [num_reqs, num_speculative_steps + 1] int64, num_sampled: [num_reqs] int32, both as vLLM returns them;
        judge_only: [num_reqs] int32, the accepted tokens that the strict test alone would have rejected.
    """
    assert target_logits.ndim == 2 and target_logits.stride(-1) == 1
    assert draft_logits is None or (draft_logits.ndim == 3 and draft_logits.stride(-1) == 1)
    assert raw_logits.shape == target_logits.shape and raw_logits.stride(-1) == 1
    assert hidden.stride(-1) == 1 and weight.shape == hidden.shape[-1:] and weight.is_contiguous()
    assert protected.shape[0] >= target_logits.shape[-1] and stop_token_ids.stride(-1) == 1
    num_reqs = cu_num_logits.shape[0] - 1
    vocab_size = min(logits.shape[-1] for logits in (target_logits, draft_logits) if logits is not None)

    judge_scores, partials = compute_statistics(
        target_logits,
        raw_logits,
        raw_differs,
        draft_logits,
        hidden,
        hidden_rows,
        weight,
        bias,
        threshold,
        expanded_idx_mapping,
        expanded_local_pos,
        temperature,
        vocab_size,
        num_speculative_steps,
        with_evidence=evidence_weight is not None,
    )

    sampled = draft_sampled.new_empty(num_reqs, num_speculative_steps + 1, dtype=torch.int64)
    num_sampled = sampled.new_empty(num_reqs, dtype=torch.int32)
    judge_only = sampled.new_empty(num_reqs, dtype=torch.int32)
    target_rejected_logsumexp = target_logits.new_empty(num_reqs, dtype=torch.float32)
    draft_rejected_logsumexp = target_logits.new_empty(num_reqs, dtype=torch.float32)
    num_blocks = partials.target_max.shape[1]
    _judged_rejection_kernel[(num_reqs,)](
        sampled,
        sampled.stride(0),
        num_sampled,
        judge_only,
        target_rejected_logsumexp,
        draft_rejected_logsumexp,
        *partials,
        num_blocks,
        target_logits,
        target_logits.stride(0),
        raw_logits,
        raw_logits.stride(0),
        draft_logits,
        *draft_strides(draft_logits),
        draft_sampled,
        draft_constrained,
        judge_scores,
        evidence_weight,
        threshold,
        protected.view(torch.uint8),
        stop_token_ids,
        stop_token_ids.stride(0),
        num_stop_token_ids,
        cu_num_logits,
        idx_mapping,
        temperature,
        seed,
        pos,
        num_blocks,
        PADDED_NUM_BLOCKS=triton.next_power_of_2(num_blocks),
        PADDED_NUM_STOP_TOKEN_IDS=triton.next_power_of_2(max(1, stop_token_ids.shape[-1])),
        HAS_DRAFT_LOGITS=draft_logits is not None,
        HAS_DRAFT_CONSTRAINED=draft_constrained is not None,
        HAS_EVIDENCE=evidence_weight is not None,
        num_warps=1,
    )

    # vLLM's kernels are launched by parameter name: a version that renames or adds one fails here, loudly.
    resample_num_blocks = triton.cdiv(vocab_size, RESAMPLE_BLOCK_SIZE)
    resampled_argmax = target_logits.new_empty(num_reqs, resample_num_blocks, dtype=torch.int64)
    resampled_max = resampled_argmax.new_empty(
        resampled_argmax.shape, dtype=torch.float64 if use_fp64 else torch.float32
    )
    shared = {
        "resampled_local_argmax_ptr": resampled_argmax,
        "resampled_local_argmax_stride": resampled_argmax.stride(0),
        "resampled_local_max_ptr": resampled_max,
        "resampled_local_max_stride": resampled_max.stride(0),
        "cu_num_logits_ptr": cu_num_logits,
        "expanded_idx_mapping_ptr": expanded_idx_mapping,
        "temp_ptr": temperature,
    }
    _resample_kernel[(num_reqs, resample_num_blocks)](
        **shared,
        target_logits_ptr=target_logits,
        target_logits_stride=target_logits.stride(0),
        target_rejected_logsumexp_ptr=target_rejected_logsumexp,
        draft_logits_ptr=draft_logits,
        draft_logits_stride_0=draft_strides(draft_logits)[0],
        draft_logits_stride_1=draft_strides(draft_logits)[1],
        draft_rejected_logsumexp_ptr=draft_rejected_logsumexp,
        rejected_step_ptr=num_sampled,
        draft_sampled_ptr=draft_sampled,
        seed_ptr=seed,
        pos_ptr=pos,
        vocab_size=vocab_size,
        BLOCK_SIZE=RESAMPLE_BLOCK_SIZE,
        HAS_DRAFT_LOGITS=draft_logits is not None,
        USE_FP64=use_fp64,
        **NO_BLOCK_VERIFICATION,
        **NO_WATERMARK,
    )
    _insert_resampled_kernel[(num_reqs,)](
        **shared,
        sampled_ptr=sampled,
        sampled_stride=sampled.stride(0),
        num_sampled_ptr=num_sampled,
        resample_num_blocks=resample_num_blocks,
        PADDED_RESAMPLE_NUM_BLOCKS=triton.next_power_of_2(resample_num_blocks),
    )
    return sampled, num_sampled, judge_only
