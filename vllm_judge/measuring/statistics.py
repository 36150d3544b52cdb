"""Intervals and tests for accuracies on n problems, most of them paired: both sides solved the same problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def accuracy(correct: Sequence[bool]) -> Estimate:
    """The share of right answers, with Wilson's interval. Raises ValueError where there is no answer."""
    if not correct:
        raise ValueError("accuracy needs at least one answer.")
    interval = stats.binomtest(sum(correct), len(correct)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(sum(correct) / len(correct), interval.low, interval.high)


def paired_difference(correct: Sequence[float], baseline: Sequence[float], seed: int = 0) -> Estimate:
    """Accuracy minus the baseline's on the same problems, with a percentile bootstrap interval over the problems.

    Any other score of a problem will do in place of right and wrong.

    Raises:
        ValueError: there are no answers, or the two sides have different numbers of them.
    """
    if not correct or len(correct) != len(baseline):
        raise ValueError(
            f"a paired difference needs as many answers on both sides, found {len(correct)}, {len(baseline)}."
        )
    difference = np.asarray(correct, dtype=float) - np.asarray(baseline, dtype=float)
    if np.all(difference == difference[0]):  # every resample is the sample itself
        return Estimate(difference[0], difference[0], difference[0])
    resampled = stats.bootstrap(
        (difference,), np.mean, confidence_level=CONFIDENCE, batch=1_000, method="percentile", rng=seed
    )
    interval = resampled.confidence_interval
    return Estimate(float(difference.mean()), float(interval.low), float(interval.high))


def mcnemar(correct: Sequence[bool], baseline: Sequence[bool]) -> float:
    """p value of McNemar's exact test that both sides are right equally often; 1.0 where they never differ."""
    won = sum(ours and not theirs for ours, theirs in zip(correct, baseline, strict=True))
    lost = sum(theirs and not ours for ours, theirs in zip(correct, baseline, strict=True))
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Sum by sum, with a percentile bootstrap over the pairs."""
    pairs = (np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float))
    value = float(pairs[0].sum() / pairs[1].sum())
    if len(numerators) < 2:
        return Estimate(value, value, value)
    resampled = stats.bootstrap(
        pairs,
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        paired=True,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    )
    return Estimate(value, float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))
