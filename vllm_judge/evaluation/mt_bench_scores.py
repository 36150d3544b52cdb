"""The figures of pairwise judging, their definitions and table."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from vllm_judge.evaluation.statistics import Estimate

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


def table(comparisons: Sequence[Comparison]) -> Table:
    """For a terminal."""
    shown = Table("", "", "n", "win", "tie", "loss", "win rate", "identical", "agreement", "refused", box=SIMPLE)
    for one in comparisons:
        rate = f"{one.win_rate.value:.3f} [{one.win_rate.low:.3f}, {one.win_rate.high:.3f}]"
        agreement = "" if one.agreement is None else f"{one.agreement:.0%}"
        numbers = (str(number) for number in (one.n, one.wins, one.ties, one.losses))
        shown.add_row(one.arm, one.category, *numbers, rate, str(one.identical), agreement, str(one.refused))
    return shown
