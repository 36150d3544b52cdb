"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Column, Table

from vllm_judge.measuring.statistics import accuracy, paired_difference
from vllm_judge.quality.scores import STRICT
from vllm_judge.training.card import ablation_cells

if TYPE_CHECKING:
    from vllm_judge.calibration.speed import Speed as TimedSpeed
    from vllm_judge.comparison.answers import Contender
    from vllm_judge.comparison.points import Point
    from vllm_judge.demo.outcome import Outcome
    from vllm_judge.measuring.statistics import Estimate
    from vllm_judge.projection.check import Check
    from vllm_judge.quality.mt_bench.scores import Comparison
    from vllm_judge.quality.scores import Score, Speed
    from vllm_judge.replay.summary import AuthorSummary
    from vllm_judge.training.fitted import FittedHead
    from vllm_judge.training.measure import ThresholdRates


def outcomes_table(outcomes: Mapping[str, Outcome], baseline: str) -> Table:
    """The outcomes of runs on the same problems, each beside its paired difference in accuracy from the baseline."""
    headings = "", "tokens\n/s", "problems\n/s", "accepted\n/cycle", "judge\nonly", "accuracy", f"minus\n{baseline}"
    shown = Table(*headings, box=None, header_style="bold")
    before = outcomes[baseline].correct
    for name, outcome in outcomes.items():
        shown.add_row(
            name,
            f"{outcome.tokens_per_s:.0f}",
            f"{outcome.problems_per_s:.1f}",
            f"{outcome.accepted_per_cycle:.2f}" if outcome.cycles else "",
            f"{outcome.judge_only_share:.1%}" if outcome.cycles else "",
            _shown(accuracy(outcome.correct), ".1f", 100, "\n"),
            "" if name == baseline else _shown(paired_difference(outcome.correct, before), "+.1f", 100, "\n"),
        )
    return shown


def points_table(chosen: Sequence[Contender], points: Sequence[Point]) -> Table:
    """The points, those on the Pareto front marked with a star."""
    shown = Table(
        *(Column("", no_wrap=True), Column("accuracy", no_wrap=True), "minus\nstrict"),
        *("tokens/\nforward", "accepted/\ncycle", "judge\nonly"),
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    rule = None
    for contender, point in zip(chosen, points, strict=True):
        name = contender.setting_name
        if point.rule != rule:
            rule = point.rule
            if name:
                shown.add_row(rule)
        shown.add_row(
            f"{'*' if point.on_front else ' '} {name or rule}",
            _shown(point.accuracy, ".1f", 100),
            f"{100 * point.minus_strict.value:+.1f}",
            f"{point.tokens_per_forward.value:.2f}",
            f"{point.accepted_per_cycle:.2f}",
            f"{point.judge_only_share:.1%}",
            style="bold" if point.on_front else None,
        )
    return shown


def speeds_table(speeds: Sequence[TimedSpeed]) -> Table:
    """Generated tokens/s: medians, and the range of the rounds."""
    shown = Table("", "drafts", "at a time", "tokens/s", "range", box=SIMPLE)
    for one in sorted(speeds, key=lambda one: (one.concurrency, one.head, one.mode)):
        low, high = min(one.tokens_per_s), max(one.tokens_per_s)
        name = f"{one.mode}{f', {one.head}' if one.mode == 'judged' else ''}"
        shown.add_row(
            name, str(one.drafts or ""), str(one.concurrency), f"{one.median:.0f}", f"{low:.0f} to {high:.0f}"
        )
    return shown


def replay_table(summaries: Sequence[AuthorSummary]) -> Table:
    """What is accepted of each author's texts."""
    shown = Table(
        "author",
        "texts",
        "tokens",
        *(verdict.replace(" ", "\n") for verdict in summaries[0].share_of_tokens),
        *(f"{rule},\naccepted\n/cycle" for rule in summaries[0].rules),
        box=SIMPLE,
    )
    for one in summaries:
        shown.add_row(
            one.author,
            str(one.texts),
            str(one.tokens),
            *(f"{share.value:.1%}" for share in one.share_of_tokens.values()),
            *(_shown(rule.accepted_per_cycle, ".2f", between="\n") for rule in one.rules.values()),
        )
    return shown


def score_table(scores: Sequence[Score]) -> Table:
    """An evaluation's scores."""
    quality = Table("", "n", "score", "minus strict", "McNemar p", box=SIMPLE)
    heading = None
    for one in scores:
        if (one.task, one.metric) != heading:
            heading = one.task, one.metric
            quality.add_row(f"{one.task}: {one.metric}")
        quality.add_row(
            f"  {one.arm}",
            str(one.n),
            _shown(one.score, ".3f"),
            "" if one.arm == STRICT else _shown(one.minus_strict, "+.3f"),
            "" if one.arm == STRICT or one.mcnemar_p is None else f"{one.mcnemar_p:.2g}",
        )
    return quality


def speed_table(speeds: Mapping[str, Speed]) -> Table:
    """How fast its runs were."""
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


def mt_bench_table(comparisons: Sequence[Comparison]) -> Table:
    """Judged answers against strict ones."""
    shown = Table("", "", "n", "win", "tie", "loss", "win rate", "identical", "agreement", "refused", box=SIMPLE)
    for one in comparisons:
        agreement = "" if one.agreement is None else f"{one.agreement:.0%}"
        numbers = (str(number) for number in (one.n, one.wins, one.ties, one.losses))
        shown.add_row(
            one.arm,
            one.category,
            *numbers,
            _shown(one.win_rate, ".3f"),
            str(one.identical),
            agreement,
            str(one.refused),
        )
    return shown


def projection_check_table(checks: Sequence[Check]) -> Table:
    """Known figures beside projected ones."""
    shown = Table("", "", "known", "projected", "error", box=SIMPLE)
    for check in checks:
        shown.add_row(check.source, check.case, f"{check.known:.2f}", f"{check.projected:.2f}", f"{check.error:+.0%}")
    return shown


def projection_table(figures: Mapping[str, Any], drafted: int) -> Table:
    """What drafting would give at each number of requests."""
    shown = Table(
        "requests\nat a time", f"speed-up,\n{drafted} drafts", "best\ndrafts", "speed-up\nwith these", box=SIMPLE
    )
    for row in figures["batches"]:
        shown.add_row(
            str(row["batch"]), f"{row['speed_up']:.2f}", str(row["best_num_drafts"]), f"{row['best_speed_up']:.2f}"
        )
    return shown


def ablation_table(fitted: FittedHead) -> Table:
    """What the hidden state, the evidence and the position are each worth."""
    balanced = ", positions balanced" if fitted.balance_positions else ""
    table = Table(title=f"AUC on held-out questions, 95% intervals over questions{balanced}")
    for heading in ("reads", "all tokens", "target would not have chosen", "above position"):
        table.add_column(heading)
    for line in fitted.ablation:
        table.add_row(*ablation_cells(asdict(line)))
    return table


def rates_table(fitted: FittedHead) -> Table:
    """What a head accepts by threshold."""
    table = Table(title=f"The head that reads {fitted.features} by threshold, held-out questions")
    table.add_column("threshold")
    for tokens in ("", "\n(not the target's choice)"):
        for heading in ("right accepted", "mistakes accepted", "precision"):
            table.add_column(heading + tokens, justify="right")
    elsewhere: Sequence[ThresholdRates | None] = fitted.rates_mismatch or [None] * len(fitted.rates)
    for everywhere, mismatch in zip(fitted.rates, elsewhere, strict=True):
        table.add_row(f"{everywhere.threshold:g}", *_rates(everywhere), *_rates(mismatch))
    return table


def _shown(one: Estimate, form: str, scale: float = 1.0, between: str = " ") -> str:
    """A value and its interval."""
    value, low, high = (format(scale * number, form) for number in (one.value, one.low, one.high))
    return f"{value}{between}[{low}, {high}]"


def _rates(rates: ThresholdRates | None) -> tuple[str, str, str]:
    if rates is None:
        return ("-", "-", "-")
    precision = "-" if rates.precision is None else f"{rates.precision:.2%}"
    return f"{rates.accepts:.2%}", f"{rates.false_accepts:.2%}", precision
