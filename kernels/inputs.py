"""What the launches of verification share, said once; each is handed to Triton whole.

In a kernel a tensor of them is the pointer to its first element. Strides are in elements; a last dimension has 1.
"""

from typing import NamedTuple

import torch


class Logits(NamedTuple):
    """The step's logits, fp32, bf16 or fp16.

    Attributes:
        target: [num_logits, V] processed.
        raw: [num_logits, V] before any processing.
        draft: [max_num_reqs, num_speculative_steps, >= V] before temperature, or None.
    """

    target: torch.Tensor
    target_stride: int
    raw: torch.Tensor
    raw_stride: int
    draft: torch.Tensor | None
    draft_stride_0: int
    draft_stride_1: int

    @classmethod
    def of(cls, target: torch.Tensor, raw: torch.Tensor, draft: torch.Tensor | None) -> "Logits":
        draft_strides = (0, 0) if draft is None else draft.stride()[:2]
        return cls(target, target.stride(0), raw, raw.stride(0), draft, *draft_strides)

    @property
    def vocab_size(self) -> int:
        """V, cut to the draft's vocabulary where that is smaller, as in vLLM."""
        return min(logits.shape[-1] for logits in (self.target, self.draft) if logits is not None)


class Requests(NamedTuple):
    """Settings of requests, [max_num_reqs] fp32 each, by vLLM's request state index.

    Attributes:
        temperature: 0 is greedy.
        raw_scale: what a request's processed logits are to be multiplied by to be its raw ones: 1 where nothing
            processed them, the temperature where it alone did, and 0 where only the raw ones themselves will do.
        threshold: log-odds; +inf: the request is verified strictly.
        shadow: uint8, not fp32; whether the judge's word is counted and not heeded.
    """

    temperature: torch.Tensor
    raw_scale: torch.Tensor
    threshold: torch.Tensor
    shadow: torch.Tensor


class Thinking(NamedTuple):
    """What tells where a request's reasoning ends, by vLLM's request state index; the automaton is thinking.py's.

    Attributes:
        confined: [max_num_reqs] uint8, whether the judge may accept inside the reasoning only.
        state: [max_num_reqs] int32, the automaton's after the request's first `num_read` [max_num_reqs] int32 tokens.
            Both are brought up to the request's last token when its drafts are verified.
        all_token_ids: [max_num_reqs, max_model_len] int32, of which `total_len` [max_num_reqs] int32 are there: vLLM's
            own, prompt and emitted tokens.
        token_class, transition, num_classes: the automaton.
    """

    confined: torch.Tensor
    state: torch.Tensor
    num_read: torch.Tensor
    all_token_ids: torch.Tensor
    all_token_ids_stride: int
    total_len: torch.Tensor
    token_class: torch.Tensor
    transition: torch.Tensor
    num_classes: int


class Statistics(NamedTuple):
    """What the first launch finds and the second decides by.

    Attributes:
        judge_score: [num_logits] fp32, without evidence, indexed by the draft's own row; unset where there is no draft
            or no judge.
        target_argmax, ...: per verifying row and vocabulary block, [num_logits, num_blocks], int64 for the argmax and
            fp32 otherwise. Sums are relative to their block's maximum. The target's and the draft's are vLLM's; the
            raw ones (evidence.py) are None for a head without evidence.
    """

    judge_score: torch.Tensor
    target_argmax: torch.Tensor
    target_max: torch.Tensor
    target_sumexp: torch.Tensor
    draft_max: torch.Tensor
    draft_sumexp: torch.Tensor
    raw_max: torch.Tensor | None
    raw_sumexp: torch.Tensor | None
    raw_xsumexp: torch.Tensor | None
    num_blocks: int

    @classmethod
    def empty(cls, num_logits: int, num_blocks: int, device: torch.device, *, with_evidence: bool) -> "Statistics":
        def new(dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(num_logits, num_blocks, dtype=dtype, device=device)

        score = torch.empty(num_logits, dtype=torch.float32, device=device)
        read_by_all = score, new(torch.int64), new(), new(), new(), new()
        if with_evidence:
            return cls(*read_by_all, new(), new(), new(), num_blocks)
        return cls(*read_by_all, None, None, None, num_blocks)
