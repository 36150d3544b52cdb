"""A judge head: the paper's, or one that reads evidence too; the head's file says which."""

import functools

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid
from vllm_judge.head import JudgeHead, logit
from vllm_judge.kernels.reference import evidence


def accepts(step: Step, head: JudgeHead, threshold: float) -> torch.Tensor:
    """[M] bool: the head's score of the drafts' own rows is above the threshold, a probability in [0, 1]."""
    return head.score(step.hidden_states[1:], evidence(step.target_logits[:-1], step.drafts)) > logit(threshold)


def judge_rule(name: str, head: JudgeHead) -> Rule:
    """The rule of a head, over a grid of thresholds that goes finer towards both ends."""
    reads = "the hidden state" if head.evidence is None else "the hidden state and the target's own distribution"
    return Rule(
        name=name,
        accepts=functools.partial(accepts, head=head),
        grid=grid(threshold=(0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)),
        source=f"Bachmann et al., ICLR 2025, arXiv 2501.19309: a linear layer, here on {reads}.",
    )
