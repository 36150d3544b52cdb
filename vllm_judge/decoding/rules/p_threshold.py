"""A fixed probability: the target gives the token more than that, whatever it would sample from."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid


def accepts(step: Step, threshold: float) -> torch.Tensor:
    """[M] bool: p(d) > threshold, of the raw distribution."""
    return step.of_drafts(step.target_logits.softmax(dim=-1)) > threshold


RULE = Rule(
    name="p-threshold",
    accepts=accepts,
    grid=grid(threshold=(0.001, 0.003, 0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5)),
    source="The simplest rule there is, and free of the nucleus: what a judge has to beat.",
)
