"""What verification says of each draft, one number a draft, on its way from the device to the counters.

A verdict is its outcome, plus SHADOW where the request is only watched, plus BUCKET times the bucket of the judge's
probability where the judge decided. 0: the draft was not reached, no drafter proposed it, or its request is not judged.
"""

import math
from collections.abc import Iterable

import torch

from vllm_judge.drift import NUM_BUCKETS

# STRICT: the strict test passes. What it fails: JUDGE_ONLY and REJECTED are the judge's word, FORBIDDEN is what it is
# not asked about (`reference.allowed`, and its scope).
OUTCOMES = {"strict": 1, "judge_only": 2, "rejected": 3, "forbidden": 4}
STRICT, JUDGE_ONLY, REJECTED, FORBIDDEN = OUTCOMES.values()
SHADOW = 8
BUCKET = 16
OUTCOME_MASK = SHADOW - 1

# The judge's probability in buckets of equal width; between two of them lies an edge, here in log-odds, so that the
# bucket of a score is the number of edges that are not above it, exactly, on every device.
BOUNDS = tuple(round((i + 1) / NUM_BUCKETS, 2) for i in range(NUM_BUCKETS))
EDGES = tuple(math.log(bound / (1.0 - bound)) for bound in BOUNDS[:-1])


def verdicts(
    strict: torch.Tensor,
    may_judge: torch.Tensor,
    proposed: torch.Tensor,
    scores: torch.Tensor,
    threshold: torch.Tensor,
    shadow: torch.Tensor,
) -> torch.Tensor:
    """The verdicts of drafts, up to the first that neither the strict test nor the judge accepts.

    Args:
        strict: [..., M] bool, what the strict test says of each draft.
        may_judge: [..., M] bool, whether the judge is asked about a draft that the strict test fails.
        proposed: [..., M] bool, False for a placeholder.
        scores: [..., M] fp32 log-odds.
        threshold: [..., 1] fp32 log-odds; +inf: the request is not judged.
        shadow: [..., 1] bool.

    Returns:
        [..., M] int16.
    """
    asked = may_judge & proposed & ~strict
    accepted = asked & (scores > threshold)
    outcome = torch.where(asked, torch.where(accepted, JUDGE_ONLY, REJECTED), torch.where(strict, STRICT, FORBIDDEN))
    edges = torch.tensor(EDGES, dtype=torch.float32, device=scores.device)
    bucket = torch.bucketize(scores.nan_to_num(nan=-math.inf), edges, right=True) * asked
    passes = (strict | accepted).long()
    reached = torch.cat([torch.ones_like(passes[..., :1]), passes[..., :-1]], dim=-1).cumprod(dim=-1)
    found = outcome + SHADOW * shadow + BUCKET * bucket
    return (found * reached * proposed * (threshold < math.inf)).to(torch.int16)


def decided(found: Iterable[int]) -> list[int]:
    """The buckets of the judge's probability, of those of one request's verdicts that the judge decided."""
    return [verdict // BUCKET for verdict in found if verdict & OUTCOME_MASK in (JUDGE_ONLY, REJECTED)]


def num_judge_only(found: torch.Tensor) -> torch.Tensor:
    """[...] how many of the verdicts [..., M] are of tokens that were accepted, and by the judge only."""
    return ((found & (OUTCOME_MASK | SHADOW)) == JUDGE_ONLY).sum(dim=-1)
