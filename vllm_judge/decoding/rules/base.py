"""What an acceptance rule sees and returns. A rule only adds: the decoder ORs its mask with the strict test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import torch

Setting = Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """One verification: M drafts, and what target and draft model said of them.

    Row i of the target's M + 1 rows verifies draft i and row i + 1 has consumed it, counting both from 0.

    Attributes:
        target_logits: [M + 1, V] fp32, raw logits of the target: before temperature and truncation.
        sampling_logits: [M + 1, V] fp32, what the target samples from: divided by the temperature, -inf outside the
            nucleus. The raw ones at temperature 0.
        draft_logits: [M, W] fp32, raw logits of the draft model; W may differ from V in padding at the end.
        hidden_states: [M + 1, H] of the target, as its output layer reads them.
        drafts: [M] int64.
        strict: [M] bool; which drafts the strict test accepts at their position.
    """

    target_logits: torch.Tensor
    sampling_logits: torch.Tensor
    draft_logits: torch.Tensor
    hidden_states: torch.Tensor
    drafts: torch.Tensor
    strict: torch.Tensor

    def of_drafts(self, values: torch.Tensor) -> torch.Tensor:
        """[M] the drafts' own entries of `values` [M or M + 1, V]."""
        return values[: len(self.drafts)].gather(-1, self.drafts.unsqueeze(-1)).squeeze(-1)


# [M] bool: the drafts that the rule accepts. Where one is forbidden to the rule (end-of-sequence and special tokens) or
# an earlier one is rejected, the decoder pays no regard to it.
Acceptance = Callable[[Step], torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """An acceptance rule.

    Attributes:
        name: as tables and files have it.
        accepts: called as accepts(step, **setting); returns [M] bool, see `Acceptance`.
        grid: the settings that a comparison runs; ({},) for a rule without parameters.
        source: who proposed it, and which reading of it this is.
    """

    name: str
    accepts: Callable[..., torch.Tensor]
    grid: tuple[Setting, ...]
    source: str


def grid(**values: tuple[float, ...]) -> tuple[Setting, ...]:
    """All combinations of the parameters' values."""
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))
