"""The rejection launch: how long each request's accepted prefix is, strict test OR judge (`reference.verify`).

Mirrors vLLM's `_rejection_kernel` (its standard method) where the strict test is concerned; what that rejects goes
before the judge. Both decisions are known here, so `judge_only` is exact.
"""

from typing import NamedTuple

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import tl_rand32
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import (
    _compute_global_logprobs_and_logsumexp,
    _compute_global_target_argmax,
)

from vllm_judge.kernels.evidence import evidence_dot_weight
from vllm_judge.kernels.inputs import Logits, Requests, Statistics


class Prefixes(NamedTuple):
    """What the launch writes: each request's accepted prefix, [num_reqs] but for `sampled`.

    Attributes:
        sampled: [num_reqs, num_speculative_steps + 1] int64; the accepted drafts, then, for a greedy request that
            rejects one, the target's own token.
        num_accepted: int32.
        judge_only: int32; how many of the accepted tokens the strict test alone would have rejected.
        target_logsumexp, draft_logsumexp: fp32; of the row where a sampled request rejects.
    """

    sampled: torch.Tensor
    sampled_stride: int
    num_accepted: torch.Tensor
    judge_only: torch.Tensor
    target_logsumexp: torch.Tensor
    draft_logsumexp: torch.Tensor

    @classmethod
    def empty(cls, num_reqs: int, num_speculative_steps: int, device: torch.device) -> "Prefixes":
        def new(dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(num_reqs, dtype=dtype, device=device)

        sampled = torch.empty(num_reqs, num_speculative_steps + 1, dtype=torch.int64, device=device)
        counts, sums = (new(torch.int32) for _ in range(2)), (new(torch.float32) for _ in range(2))
        return cls(sampled, sampled.stride(0), *counts, *sums)


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
    out,  # Prefixes
    statistics,  # Statistics
    logits,  # Logits
    requests,  # Requests
    draft_sampled_ptr,  # [num_logits]
    draft_constrained_ptr,  # [num_logits]
    evidence_weight_ptr,  # [4]
    protected_ptr,  # [V]
    stop_token_ids_ptr,  # [max_num_reqs, S]
    stop_token_ids_stride,
    num_stop_token_ids_ptr,  # [max_num_reqs]
    cu_num_logits_ptr,  # [num_reqs + 1]
    idx_mapping_ptr,  # [num_reqs]
    seed_ptr,  # [max_num_reqs]
    pos_ptr,  # [num_logits]
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
    temp = tl.load(requests.temperature + req_state_idx).to(tl.float32)
    is_greedy = temp == 0.0
    threshold = tl.load(requests.threshold + req_state_idx)
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
                    statistics.target_max,
                    statistics.num_blocks,
                    statistics.target_argmax,
                    statistics.num_blocks,
                    logit_idx,
                    statistics.num_blocks,
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
                    logits.target,
                    logits.target_stride,
                    statistics.target_max,
                    statistics.num_blocks,
                    statistics.target_sumexp,
                    statistics.num_blocks,
                    logits.draft,
                    logits.draft_stride_0,
                    logits.draft_stride_1,
                    statistics.draft_max,
                    statistics.num_blocks,
                    statistics.draft_sumexp,
                    statistics.num_blocks,
                    statistics.num_blocks,
                    PADDED_NUM_BLOCKS,
                    HAS_DRAFT_LOGITS,
                )
                accepted = target_logprob > tl.log(u) + draft_logprob
            if is_judged & is_valid_draft & (accepted == 0):
                score = tl.load(statistics.judge_score + logit_idx + 1)
                if HAS_EVIDENCE:
                    score += evidence_dot_weight(
                        tl.load(logits.raw + logit_idx * logits.raw_stride + draft_sampled).to(tl.float32),
                        statistics,
                        logit_idx * statistics.num_blocks,
                        evidence_weight_ptr,
                        PADDED_NUM_BLOCKS,
                    )
                if HAS_DRAFT_CONSTRAINED:
                    constrained_logit = tl.load(draft_constrained_ptr + logit_idx + 1)
                else:
                    constrained_logit = tl.load(logits.target + logit_idx * logits.target_stride + draft_sampled)
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
            tl.store(out.sampled + req_idx * out.sampled_stride + i, draft_sampled if accepted else token_if_rejected)

    tl.store(out.num_accepted + req_idx, accepted_length)
    tl.store(out.judge_only + req_idx, judge_only)
    tl.store(out.target_logsumexp + req_idx, target_lse)
    tl.store(out.draft_logsumexp + req_idx, draft_lse)


def accept_prefixes(
    statistics: Statistics,
    logits: Logits,
    requests: Requests,
    draft_sampled: torch.Tensor,
    draft_constrained: torch.Tensor | None,
    evidence_weight: torch.Tensor | None,
    protected: torch.Tensor,
    stop_token_ids: torch.Tensor,
    num_stop_token_ids: torch.Tensor,
    cu_num_logits: torch.Tensor,
    idx_mapping: torch.Tensor,
    seed: torch.Tensor,
    pos: torch.Tensor,
    num_speculative_steps: int,
) -> Prefixes:
    """One launch; arguments as in `verify.judged_rejection_sample`."""
    num_reqs = cu_num_logits.shape[0] - 1
    prefixes = Prefixes.empty(num_reqs, num_speculative_steps, logits.target.device)
    _judged_rejection_kernel[(num_reqs,)](
        prefixes,
        statistics,
        logits,
        requests,
        draft_sampled,
        draft_constrained,
        evidence_weight,
        protected.view(torch.uint8),
        stop_token_ids,
        stop_token_ids.stride(0),
        num_stop_token_ids,
        cu_num_logits,
        idx_mapping,
        seed,
        pos,
        PADDED_NUM_BLOCKS=triton.next_power_of_2(statistics.num_blocks),
        PADDED_NUM_STOP_TOKEN_IDS=triton.next_power_of_2(max(1, stop_token_ids.shape[-1])),
        HAS_DRAFT_LOGITS=logits.draft is not None,
        HAS_DRAFT_CONSTRAINED=draft_constrained is not None,
        HAS_EVIDENCE=evidence_weight is not None,
        num_warps=1,
    )
    return prefixes
