"""Medusa's typical acceptance: a bar on the probability that sinks where the target is unsure."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid


def accepts(step: Step, epsilon: float) -> torch.Tensor:
    """[M] bool: p(d) > min(epsilon, delta * exp(-H(p))) with delta = sqrt(epsilon), p as the target samples."""
    probabilities = step.sampling_logits[:-1].softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    bar = torch.clamp(epsilon**0.5 * torch.exp(-entropy), max=epsilon)
    return step.of_drafts(probabilities) > bar


RULE = Rule(
    name="typical acceptance",
    accepts=accepts,
    grid=grid(epsilon=(0.001, 0.003, 0.01, 0.03, 0.05, 0.09, 0.2, 0.4, 0.7)),
    source=(
        "Cai et al., Medusa, ICML 2024, arXiv 2401.10774, section 3.3.1; delta = sqrt(epsilon) is the authors' advice, "
        "epsilon 0.09 their default. Medusa knows no top-p; as in vLLM up to 0.9, the rule reads probabilities after "
        "temperature and truncation."
    ),
)
