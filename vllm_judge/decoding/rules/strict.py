"""Nothing beyond the strict test: the target's own text."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step


def accepts(step: Step) -> torch.Tensor:
    """[M] bool, none."""
    return torch.zeros_like(step.strict)


RULE = Rule(
    name="strict",
    accepts=accepts,
    grid=({},),
    source="Leviathan et al., ICML 2023, arXiv 2211.17192: speculative sampling; the target's own distribution.",
)
