"""SGLang's acceptance threshold: a fixed probability, of what the target samples from."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid


def accepts(step: Step, threshold: float) -> torch.Tensor:
    """[M] bool: p(d) >= threshold after temperature and truncation; a token outside the nucleus has p = 0."""
    return step.of_drafts(step.sampling_logits.softmax(dim=-1)) >= threshold


RULE = Rule(
    name="SGLang threshold",
    accepts=accepts,
    grid=grid(threshold=(0.001, 0.003, 0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5)),
    source=(
        "SGLang's speculative_accept_threshold_single, with speculative_accept_threshold_acc at 1. SGLang applies it "
        "when sampling only; at temperature 0, here, it reads the raw distribution and equals p-threshold."
    ),
)
