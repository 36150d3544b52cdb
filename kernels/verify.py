"""Judge Decoding's verification for vLLM's model runner V2: vLLM's four launches, with the judge inside them.

`judged_rejection_sample` stands where vLLM calls `rejection_sample` of `vllm.v1.worker.gpu.spec_decode.
rejection_sampler_utils`, and launches what it launches:

    statistics.py   per row and vocabulary block: max, argmax and sum of exponentials
                    + the judge's dot product, as one program more per row, and the evidence's sums (evidence.py)
    rejection.py    per request: the longest accepted prefix
                    + strict OR judge, where both decisions are known, so that the verdicts are exact
    resample.py     vLLM's own two kernels, resample and insert

Random numbers come from vLLM's functions, so a judge that accepts nothing leaves vLLM's tokens as they are. Nothing is
read back by the host. The rule itself is in reference.py, which the tests compare all of this with.
"""

import torch

from vllm_judge.kernels.inputs import Logits, Requests, Thinking
from vllm_judge.kernels.rejection import accept_prefixes
from vllm_judge.kernels.resample import append_own_tokens
from vllm_judge.kernels.statistics import compute_statistics


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
    raw_scale: torch.Tensor,
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
    shadow: torch.Tensor,
    thinking: Thinking | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Verifies a step's drafts: strict test OR judge (`reference.verify` for each request), in four launches.

    The arguments up to `num_speculative_steps`, and `use_fp64`, are those of vLLM's `rejection_sample` with its
    standard method; a logits row r > 0 of a request consumes the draft `draft_sampled[r]`, which row r - 1 verifies.
    No argument is modified but `thinking`. V is the target's vocabulary, cut to the draft's where that is smaller, as
    in vLLM.

    Args:
        target_logits: [num_logits, V] fp32, or the model's dtype where nothing processed them.
        draft_logits: [max_num_reqs, num_speculative_steps, >= V] before temperature, or None.
        draft_sampled: [num_logits] token ids, -1 for a placeholder.
        cu_num_logits: [num_reqs + 1]; pos: [num_logits]; idx_mapping: [num_reqs]; expanded_idx_mapping and
            expanded_local_pos: [num_logits]; temperature and seed: [max_num_reqs].
        use_fp64: whether resampling draws its noise in fp64.
        raw_logits: [num_logits, V] before any processing; `target_logits` itself where nothing processed them. Used
            for evidence only.
        raw_scale: [max_num_reqs] fp32; what a request's target logits are to be multiplied by to be its raw ones: 1
            where nothing processed them, the temperature where it alone did. 0: `raw_logits` must be read as well.
        draft_constrained: [num_logits] fp32, indexed like `draft_sampled`: the token's logit at the row before, after
            constraints and before top-k and top-p. None: read it from `target_logits`, to which neither was applied.
        hidden: [num_tokens, H] bf16, fp16 or fp32; the whole step's, gathered by the kernel.
        hidden_rows: [num_logits] the row of `hidden` for each row of logits (vLLM's `logits_indices`).
        weight: [H] fp32; bias: [] fp32; evidence_weight: [4] fp32, or None for a head without.
        threshold: [max_num_reqs] fp32 log-odds; +inf: the request is verified strictly.
        protected: [V] bool; end-of-sequence and special tokens, which the judge never accepts.
        stop_token_ids: [max_num_reqs, S] int32, of which `num_stop_token_ids` [max_num_reqs] int32 count, at most S: a
            request's own tokens of that kind.
        shadow: [max_num_reqs] uint8; whether a request's tokens are those of the strict test all the same, and the
            judge's word is only counted.
        thinking: what tells where reasoning ends; None where no request can be confined to it.

    Returns:
        sampled: [num_reqs, num_speculative_steps + 1] int64, num_sampled: [num_reqs] int32, both as vLLM returns them;
        verdicts: [num_reqs, num_speculative_steps] int16, what was found of each draft (verdicts.py).
    """
    assert target_logits.ndim == 2 and target_logits.stride(-1) == 1
    assert draft_logits is None or (draft_logits.ndim == 3 and draft_logits.stride(-1) == 1)
    assert raw_logits.shape == target_logits.shape and raw_logits.stride(-1) == 1
    assert hidden.stride(-1) == 1 and weight.shape == hidden.shape[-1:] and weight.is_contiguous()
    assert protected.shape[0] >= target_logits.shape[-1] and stop_token_ids.stride(-1) == 1
    logits = Logits.of(target_logits, raw_logits, draft_logits)
    requests = Requests(temperature, raw_scale, threshold, shadow)
    statistics = compute_statistics(
        logits,
        requests,
        hidden,
        hidden_rows,
        weight,
        bias,
        expanded_idx_mapping,
        expanded_local_pos,
        num_speculative_steps,
        with_evidence=evidence_weight is not None,
    )
    prefixes = accept_prefixes(
        statistics,
        logits,
        requests,
        thinking,
        draft_sampled,
        draft_constrained,
        evidence_weight,
        protected,
        stop_token_ids,
        num_stop_token_ids,
        cu_num_logits,
        idx_mapping,
        seed,
        pos,
        num_speculative_steps,
    )
    append_own_tokens(
        prefixes,
        logits,
        draft_sampled,
        cu_num_logits,
        expanded_idx_mapping,
        temperature,
        seed,
        pos,
        use_fp64=use_fp64,
    )
    # The insert kernel has counted the own token to the accepted ones.
    return prefixes.sampled, prefixes.num_accepted, prefixes.verdicts
