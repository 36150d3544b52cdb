"""JuDi: the two models' distributions are close, and the target is not sure of another token."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid

SURE = 0.9


def accepts(step: Step, threshold: float) -> torch.Tensor:
    """[M] bool: KL(target || draft) < threshold, in nats, where the target's top probability is at most 0.9."""
    size = min(step.target_logits.shape[-1], step.draft_logits.shape[-1])
    log_p = step.target_logits[:-1, :size].log_softmax(dim=-1)
    log_q = step.draft_logits[:, :size].log_softmax(dim=-1)
    p = log_p.exp()
    # A token that the target excludes adds nothing, though its log p - log q is infinite.
    divergence = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)
    return (divergence < threshold) & (p.amax(dim=-1) <= SURE)


RULE = Rule(
    name="KL",
    accepts=accepts,
    grid=grid(threshold=(0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0)),
    source=(
        "Sun et al., JuDi, EMNLP 2026, arXiv 2601.04766: strict where the target's top-1 probability is above 0.9. "
        "The direction is the one of the paper's derivation (appendix A.1), KL(target || draft), of the raw "
        "distributions."
    ),
)
