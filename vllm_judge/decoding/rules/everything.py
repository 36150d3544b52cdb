"""Every draft: what speed there is to gain, and what it costs to take it unseen."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step


def accepts(step: Step) -> torch.Tensor:
    """[M] bool, all."""
    return torch.ones_like(step.strict)


RULE = Rule(
    name="everything",
    accepts=accepts,
    grid=({},),
    source="No rule at all: one target token, then all of the draft's, in turn.",
)
