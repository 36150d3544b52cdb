"""The figures of pairwise judging, and what each number means."""

from dataclasses import dataclass

from vllm_judge.measuring.statistics import Estimate

ALL = "all"

DEFINITIONS = {
    "n": "pairs of a strict and a judged answer to the same turn that have a verdict",
    "win": "the judge model prefers the judged answer in both orders; loss: the strict one in both; tie: all else",
    "win_rate": "wins and half of the ties by n, with a 95% bootstrap over questions; 0.5: no difference",
    "identical": "pairs of the same text, ties without asking",
    "agreement": "share of the pairs that were shown in which the judge model says the same in both orders",
    "refused": "pairs without a verdict, since a reply does not follow the schema",
}


@dataclass(frozen=True)
class Comparison:
    """A way of judging against strict verification, on a category of questions or on all; see DEFINITIONS."""

    arm: str
    category: str
    n: int
    wins: int
    ties: int
    losses: int
    win_rate: Estimate
    identical: int
    agreement: float | None
    refused: int
