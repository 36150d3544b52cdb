"""Outcomes as a table on the terminal."""

from collections.abc import Mapping

from rich.table import Table

from vllm_judge.demo.outcome import Outcome
from vllm_judge.evaluation.statistics import Estimate, accuracy, paired_difference

DEFINITIONS = (
    "accepted/cycle: draft tokens accepted per target verification, the target's own token not counted. "
    "judge only: share of the accepted draft tokens that strict verification would have rejected. "
    "Accuracy, and its paired difference, in % with 95% intervals."
)


def table(outcomes: Mapping[str, Outcome], baseline: str) -> Table:
    """The outcomes of runs on the same problems, each beside its paired difference in accuracy from the baseline."""
    headings = "", "tokens\n/s", "problems\n/s", "accepted\n/cycle", "judge\nonly", "accuracy", f"minus\n{baseline}"
    shown = Table(*headings, box=None, header_style="bold")
    for name, outcome in outcomes.items():
        shown.add_row(
            name,
            f"{outcome.tokens_per_s:.0f}",
            f"{outcome.problems_per_s:.1f}",
            f"{outcome.accepted_per_cycle:.2f}" if outcome.cycles else "",
            f"{outcome.judge_only_share:.1%}" if outcome.cycles else "",
            _percent(accuracy(outcome.correct)),
            "" if name == baseline else _percent(paired_difference(outcome.correct, outcomes[baseline].correct), "+"),
        )
    return shown


def _percent(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[{low}, {high}]"
