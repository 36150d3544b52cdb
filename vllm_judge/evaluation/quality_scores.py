"""The figures of an evaluation: paired scores, speeds, their definitions and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from vllm_judge.evaluation.statistics import Estimate

STRICT = "strict"

DEFINITIONS = {
    "score": "mean of the metric over the task's documents, as lm-eval scores them; with Wilson's 95% interval where a "
    "document is right or wrong, else with a 95% bootstrap over documents. A group's documents are taken together",
    "minus_strict": "score minus strict verification's on the same documents, with a 95% bootstrap over documents",
    "mcnemar_p": "p value of McNemar's exact test that both are right equally often; only where a document is right or "
    "wrong",
}
SPEED_DEFINITIONS = {
    "tokens_per_s": "generated tokens by wall-clock seconds of the run, all requests together",
    "ms_per_token": "mean over requests of the milliseconds between two tokens of an answer, after the first "
    "(vllm:request_time_per_output_token_seconds)",
    "accepted_per_cycle": "draft tokens accepted per target verification, the target's own token not counted",
    "judge_only_share": "share of the accepted draft tokens that strict verification would have rejected",
}


@dataclass(frozen=True)
class Score:
    """A metric of a task, or of a group of tasks, under one arm; see DEFINITIONS."""

    task: str
    metric: str
    higher_is_better: bool
    arm: str
    n: int
    score: Estimate
    minus_strict: Estimate
    mcnemar_p: float | None


@dataclass(frozen=True)
class Speed:
    """How fast an arm was, and how; see SPEED_DEFINITIONS."""

    tokens: int
    seconds: float
    tokens_per_s: float
    ms_per_token: float
    accepted_per_cycle: float
    judge_only_share: float


def score_table(scores: Sequence[Score]) -> Table:
    """For a terminal."""
    quality = Table("", "n", "score", "minus strict", "McNemar p", box=SIMPLE)
    heading = None
    for one in scores:
        if (one.task, one.metric) != heading:
            heading = one.task, one.metric
            quality.add_row(f"{one.task}: {one.metric}")
        quality.add_row(
            f"  {one.arm}",
            str(one.n),
            _interval(one.score),
            "" if one.arm == STRICT else _interval(one.minus_strict, "+"),
            "" if one.arm == STRICT or one.mcnemar_p is None else f"{one.mcnemar_p:.2g}",
        )
    return quality


def speed_table(speeds: Mapping[str, Speed]) -> Table:
    """For a terminal."""
    fast = Table("", "tokens/s", "ms/token", "accepted/cycle", "judge only", box=SIMPLE)
    for name, run in speeds.items():
        fast.add_row(
            name,
            f"{run.tokens_per_s:.1f}",
            f"{run.ms_per_token:.2f}",
            f"{run.accepted_per_cycle:.2f}",
            f"{run.judge_only_share:.1%}",
        )
    return fast


def _interval(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{one:{sign}.3f}" for one in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
