"""The rejection launch: how long each request's accepted prefix is, strict test OR judge (`reference.verify`).

Mirrors vLLM's `_rejection_kernel` (its standard method) where the strict test is concerned; what that rejects goes
before the judge. Both decisions are known here, so the verdicts are exact. A request in shadow emits what the strict
test accepts, and is walked on as far as the judge would have let it.
"""

import functools
from typing import NamedTuple

import torch
from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import tl_rand32
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import (
    _compute_global_logprobs_and_logsumexp,
    _compute_global_target_argmax,
)

from vllm_judge.kernels import verdicts
from vllm_judge.kernels.evidence import evidence_dot_weight
from vllm_judge.kernels.inputs import Logits, Requests, Statistics, Thinking
from vllm_judge.kernels.permitted import is_allowed, next_state, state_of_text

_STRICT = tl.constexpr(verdicts.STRICT)
_JUDGE_ONLY = tl.constexpr(verdicts.JUDGE_ONLY)
_REJECTED = tl.constexpr(verdicts.REJECTED)
_FORBIDDEN = tl.constexpr(verdicts.FORBIDDEN)
_SHADOW = tl.constexpr(verdicts.SHADOW)
_BUCKET = tl.constexpr(verdicts.BUCKET)
# NUM_BUCKETS - 1 of them count.
_PADDED_NUM_EDGES = tl.constexpr(32)


class Prefixes(NamedTuple):
    """What the launch writes: each request's accepted prefix, [num_reqs] but for `sampled`.

    Attributes:
        sampled: [num_reqs, num_speculative_steps + 1] int64; the accepted drafts, then, for a greedy request that
            rejects one, the target's own token.
        num_accepted: int32.
        verdicts: [num_reqs, num_speculative_steps] int16, see verdicts.py.
        target_logsumexp, draft_logsumexp: fp32; of the row where a sampled request rejects.
    """

    sampled: torch.Tensor
    sampled_stride: int
    num_accepted: torch.Tensor
    verdicts: torch.Tensor
    target_logsumexp: torch.Tensor
    draft_logsumexp: torch.Tensor

    @classmethod
    def empty(cls, num_reqs: int, num_speculative_steps: int, device: torch.device) -> "Prefixes":
        def new(dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(num_reqs, dtype=dtype, device=device)

        sampled = torch.empty(num_reqs, num_speculative_steps + 1, dtype=torch.int64, device=device)
        verdicts = torch.empty(num_reqs, num_speculative_steps, dtype=torch.int16, device=device)
        sums = (new(torch.float32) for _ in range(2))
        return cls(sampled, sampled.stride(0), new(torch.int32), verdicts, *sums)


@triton.jit
def _judged_rejection_kernel(
    out,  # Prefixes
    statistics,  # Statistics
    logits,  # Logits
    requests,  # Requests
    thinking,  # Thinking
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
    edges_ptr,  # [_PADDED_NUM_EDGES]
    num_speculative_steps,
    PADDED_NUM_BLOCKS: tl.constexpr,
    PADDED_NUM_STOP_TOKEN_IDS: tl.constexpr,
    HAS_DRAFT_LOGITS: tl.constexpr,
    HAS_DRAFT_CONSTRAINED: tl.constexpr,
    HAS_EVIDENCE: tl.constexpr,
    HAS_THINKING: tl.constexpr,
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
    is_shadow = tl.load(requests.shadow + req_state_idx) != 0
    edges = tl.load(edges_ptr + tl.arange(0, _PADDED_NUM_EDGES))
    is_confined = False
    state = 0
    if HAS_THINKING:
        is_confined = tl.load(thinking.confined + req_state_idx) != 0
        if is_confined:
            state = state_of_text(thinking, req_state_idx)

    accepted_length = tl.zeros((), tl.int64)
    target_lse = 0.0
    draft_lse = 0.0
    # As long as drafts are accepted, and as long as they would be if the judge were heeded: the same but in shadow.
    accepting = True
    verifying = True
    for i in range(num_draft_tokens):
        logit_idx = start_idx + i
        draft_sampled = tl.load(draft_sampled_ptr + logit_idx + 1).to(tl.int64)
        is_valid_draft = draft_sampled >= 0
        draft_sampled = tl.maximum(0, draft_sampled)
        verdict = 0
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
                is_strict = (token_if_rejected == draft_sampled) & is_valid_draft
            else:
                # Speculative sampling (Leviathan et al., 2023): p > u q, in logarithms.
                u = tl_rand32(seed, tl.load(pos_ptr + logit_idx), includes_zero=False)
                target_logprob, draft_logprob, row_target_lse, row_draft_lse = _compute_global_logprobs_and_logsumexp(
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
                is_strict = target_logprob > tl.log(u) + draft_logprob
                if accepting:
                    target_lse = row_target_lse
                    draft_lse = row_draft_lse
            is_inside = is_valid_draft
            if HAS_THINKING and is_confined:
                # Thinking before the draft, and still after it.
                before = state
                state = next_state(thinking, state, draft_sampled)
                is_inside = (before & state & 1) != 0
            verdict = _STRICT
            passes = is_strict
            if is_judged & is_valid_draft & (is_strict == 0):
                if HAS_DRAFT_CONSTRAINED:
                    constrained_logit = tl.load(draft_constrained_ptr + logit_idx + 1)
                else:
                    constrained_logit = tl.load(logits.target + logit_idx * logits.target_stride + draft_sampled)
                verdict = _FORBIDDEN
                if is_inside & is_allowed(
                    constrained_logit.to(tl.float32),
                    draft_sampled,
                    req_state_idx,
                    protected_ptr,
                    stop_token_ids_ptr,
                    stop_token_ids_stride,
                    num_stop_token_ids_ptr,
                    PADDED_NUM_STOP_TOKEN_IDS,
                ):
                    score = tl.load(statistics.judge_score + logit_idx + 1)
                    if HAS_EVIDENCE:
                        score += evidence_dot_weight(
                            tl.load(logits.raw + logit_idx * logits.raw_stride + draft_sampled).to(tl.float32),
                            statistics,
                            logit_idx * statistics.num_blocks,
                            evidence_weight_ptr,
                            PADDED_NUM_BLOCKS,
                        )
                    passes = score > threshold
                    bucket = tl.sum((score >= edges).to(tl.int32), axis=0)
                    verdict = tl.where(passes, _JUDGE_ONLY, _REJECTED) + _BUCKET * bucket
            if accepting:
                accepting = is_strict | (passes & (is_shadow == 0))
                accepted_length += accepting
                token = draft_sampled if accepting else token_if_rejected
                tl.store(out.sampled + req_idx * out.sampled_stride + i, token)
            verifying = passes
            verdict = tl.where(is_judged & is_valid_draft, verdict + _SHADOW * is_shadow, 0)
        tl.store(out.verdicts + req_idx * num_speculative_steps + i, verdict)
    for i in range(num_draft_tokens, num_speculative_steps):
        tl.store(out.verdicts + req_idx * num_speculative_steps + i, 0)

    tl.store(out.num_accepted + req_idx, accepted_length)
    tl.store(out.target_logsumexp + req_idx, target_lse)
    tl.store(out.draft_logsumexp + req_idx, draft_lse)


@functools.cache
def _edges(device: torch.device) -> torch.Tensor:
    """Behind the edges NaN, which no score reaches."""
    edges = torch.full((_PADDED_NUM_EDGES.value,), torch.nan)
    edges[: len(verdicts.EDGES)] = torch.tensor(verdicts.EDGES)
    return edges.to(device)


def accept_prefixes(
    statistics: Statistics,
    logits: Logits,
    requests: Requests,
    thinking: Thinking | None,
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
        thinking,
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
        _edges(logits.target.device),
        num_speculative_steps,
        PADDED_NUM_BLOCKS=triton.next_power_of_2(statistics.num_blocks),
        PADDED_NUM_STOP_TOKEN_IDS=triton.next_power_of_2(max(1, stop_token_ids.shape[-1])),
        HAS_DRAFT_LOGITS=logits.draft is not None,
        HAS_DRAFT_CONSTRAINED=draft_constrained is not None,
        HAS_EVIDENCE=evidence_weight is not None,
        HAS_THINKING=thinking is not None,
        num_warps=1,
    )
    return prefixes
