"""MARS: the target's second choice, where its logit comes close to the first one's."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid


def accepts(step: Step, ratio: float) -> torch.Tensor:
    """[M] bool: d is the target's second token, and z_2 / z_1 > ratio, of the raw logits.

    The ratio of logits, unlike that of probabilities, changes with a shift of all of them, and has no meaning where
    z_1 is not above 0: there nothing is accepted.
    """
    values, tokens = step.target_logits[:-1].topk(2, dim=-1)
    first, second = values.unbind(dim=-1)
    return (step.drafts == tokens[:, 1]) & (first > 0) & (second > ratio * first)


RULE = Rule(
    name="MARS",
    accepts=accepts,
    grid=grid(ratio=(0.98, 0.95, 0.9, 0.85, 0.8, 0.6, 0.4, 0.2)),
    source="Song et al., MARS, arXiv 2601.15498, section 3 (its setting is 0.9).",
)
