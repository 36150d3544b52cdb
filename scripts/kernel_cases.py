"""The verification steps that bench_kernels.py times: their tensors, and the bytes that they move."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

GREEDY, SAMPLED, PROCESSED = KINDS = "greedy", "sampled", "processed"
STRICT, JUDGE = "strict", "judge"
SWEEPS = {
    "batch": (1, 4, 16, 64, 256),
    "num_drafts": (1, 2, 4, 8, 16, 32),
    "vocab_size": (32000, 128256, 151936),
    "hidden_size": (2048, 4096, 8192, 16384),
}
TEMPERATURE = 0.7
# Block sizes of the statistics and of vLLM's resampling, in tokens.
VOCAB_BLOCK, RESAMPLE_BLOCK = 8192, 1024


@dataclass(frozen=True)
class Case:
    """A verification step: `batch` requests with `num_drafts` drafts each, hidden states and raw logits in bf16.

    Attributes:
        kind: GREEDY: the raw logits are the final ones, drafts have no probabilities. SAMPLED: a temperature, with an
            fp32 copy as final logits beside the raw ones, and draft logits in bf16. PROCESSED: the same, where more
            than temperature made the final logits (penalties, bans, top-p), so that the raw ones are read as well. All
            heads read evidence.
        accepted_by: STRICT: all drafts pass the strict test, both sides walk all of them. JUDGE: all fail it and pass
            the judge: we walk all of them, vLLM stops at the first.
    """

    batch: int = 32
    num_drafts: int = 8
    vocab_size: int = 128256
    hidden_size: int = 4096
    kind: str = GREEDY
    accepted_by: str = STRICT

    def bytes_moved(self, judged: bool) -> int:
        """What one step reads and writes, each byte once in a launch, as far as it grows with V or H."""
        sampled, rows = self.kind != GREEDY, self.batch * self.num_drafts
        blocks, resample_blocks = -(-self.vocab_size // VOCAB_BLOCK), -(-self.vocab_size // RESAMPLE_BLOCK)
        final, raw, draft = (4 if sampled else 2), 2, (2 if sampled else 0)  # bytes of a logit
        # Statistics: logits in; per block maximum and argmax, or maximum and sum of the target and of the draft, out.
        moved = rows * self.vocab_size * (final + draft) + rows * blocks * (16 if sampled else 12)
        if judged:
            moved += rows * self.hidden_size * 2 + self.hidden_size * 4 + rows * blocks * 12
            moved += rows * self.vocab_size * raw if self.kind == PROCESSED else 0
        # Rejection: the statistics of every row that is walked.
        by_judge = self.accepted_by == JUDGE
        walked = self.batch if by_judge and not judged else rows
        moved += walked * blocks * ((16 if sampled else 4) + (12 if judged and by_judge else 0))
        # Resampling of the bonus row or of a rejection (a greedy one is known by then): logits in, block maxima out.
        if judged or not by_judge:
            moved += self.batch * self.vocab_size * final
        elif sampled:
            moved += self.batch * self.vocab_size * (final + draft)
        else:
            return moved
        return moved + self.batch * resample_blocks * (12 + 4)

    @property
    def bytes_held(self) -> int:
        """Memory of its tensors."""
        rows = self.batch * (self.num_drafts + 1)
        return rows * (self.vocab_size * (2 if self.kind == GREEDY else 8) + self.hidden_size * 2)

    def inputs(self, device: str) -> dict[str, Any]:
        """The arguments of `judged_rejection_sample`, as engine/v2.py gives them."""
        from vllm_judge.engine.dial import MAX_STOP_TOKEN_IDS

        rng = torch.Generator(device).manual_seed(0)
        batch, rows, vocab_size = self.batch, self.batch * (self.num_drafts + 1), self.vocab_size
        sampled = self.kind != GREEDY
        bf16: dict[str, Any] = {"dtype": torch.bfloat16, "device": device, "generator": rng}
        int32: dict[str, Any] = {"dtype": torch.int32, "device": device}
        fp32: dict[str, Any] = {"dtype": torch.float32, "device": device}
        local_pos = torch.arange(self.num_drafts + 1, **int32).repeat(batch)
        own = torch.randint(vocab_size, (rows,), device=device, generator=rng)
        raw = torch.randn(rows, vocab_size, **bf16)
        # Row i verifies the draft of row i + 1; all the target's probability is on that draft, or on its neighbour.
        best = own.roll(-1) if self.accepted_by == STRICT else (own.roll(-1) + 1) % vocab_size
        raw[torch.arange(rows, device=device), best] = 40.0
        expanded = torch.arange(batch, **int32).repeat_interleave(self.num_drafts + 1)
        return {
            "target_logits": raw.float() / TEMPERATURE if sampled else raw,
            "draft_logits": torch.randn(batch, self.num_drafts, vocab_size, **bf16) if sampled else None,
            "draft_sampled": own.int(),
            "cu_num_logits": torch.arange(0, rows + 1, self.num_drafts + 1, **int32),
            "pos": torch.arange(rows, device=device),
            "idx_mapping": torch.arange(batch, **int32),
            "expanded_idx_mapping": expanded,
            "expanded_local_pos": local_pos,
            "temperature": torch.full((batch,), TEMPERATURE if sampled else 0.0, **fp32),
            "seed": torch.arange(batch, device=device),
            "num_speculative_steps": self.num_drafts,
            "use_fp64": False,
            "raw_logits": raw,
            "raw_scale": torch.full((batch,), {GREEDY: 1.0, SAMPLED: TEMPERATURE, PROCESSED: 0.0}[self.kind], **fp32),
            "draft_constrained": None,
            "hidden": torch.randn(rows, self.hidden_size, **bf16),
            "hidden_rows": torch.arange(rows, device=device),
            "weight": torch.randn(self.hidden_size, generator=rng, **fp32) / self.hidden_size,
            "bias": torch.tensor(100.0, device=device),  # the judge accepts whatever is allowed
            "evidence_weight": torch.full((4,), 0.01, **fp32),
            "threshold": torch.zeros(batch, **fp32),
            "protected": torch.zeros(vocab_size, dtype=torch.bool, device=device),
            "stop_token_ids": torch.zeros(batch, MAX_STOP_TOKEN_IDS, **int32),
            "num_stop_token_ids": torch.zeros(batch, **int32),
            "shadow": torch.zeros(batch, dtype=torch.uint8, device=device),
            "thinking": None,
        }


OURS_ONLY = (
    *("raw_logits", "raw_scale", "draft_constrained", "hidden", "hidden_rows", "weight", "bias"),
    *("evidence_weight", "threshold", "protected", "stop_token_ids", "num_stop_token_ids", "shadow", "thinking"),
)


def cases() -> Iterator[Case]:
    """Every shape for all kinds and both ways of acceptance."""
    one_by_one: list[dict[str, Any]] = [{name: size} for name, sizes in SWEEPS.items() for size in sizes]
    corners: list[dict[str, Any]] = [{name: sizes[end] for name, sizes in SWEEPS.items()} for end in (0, -1)]
    shapes = [Case(), *(Case(**sizes) for sizes in [*one_by_one, *corners])]
    for kind in KINDS:
        for accepted_by in (STRICT, JUDGE):
            yield from dict.fromkeys(replace(shape, kind=kind, accepted_by=accepted_by) for shape in shapes)
