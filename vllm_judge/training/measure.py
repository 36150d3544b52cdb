"""What a head is worth on held-out questions: AUC with an interval over questions, and rates by threshold."""

from dataclasses import dataclass

import numpy as np

from vllm_judge.head import logit
from vllm_judge.measuring.statistics import CONFIDENCE, Estimate

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
RESAMPLES = 500


@dataclass(frozen=True)
class ThresholdRates:
    """What a head does at a threshold, as shares.

    Attributes:
        threshold: a probability.
        accepts: of right tokens, those that it accepts (recall).
        false_accepts: of mistakes, those that it accepts.
        precision: of accepted tokens, the right ones; None where it accepts nothing.
    """

    threshold: float
    accepts: float
    false_accepts: float
    precision: float | None


def rates_by_threshold(score: np.ndarray, right: np.ndarray) -> list[ThresholdRates]:
    """The rates of scores [N] (log-odds) on labels [N] at each of THRESHOLDS; both labels must occur."""
    measured = []
    for threshold in THRESHOLDS:
        accepted = score > logit(threshold)
        precision = float(right[accepted].mean()) if accepted.any() else None
        rates = float(accepted[right].mean()), float(accepted[~right].mean())
        measured.append(ThresholdRates(threshold, *rates, precision))
    return measured


class QuestionBootstrap:
    """AUCs of scores on one set of tokens, with percentile intervals over resampled questions.

    Tokens of a question, and of an answer above all, are not independent of each other: resampling them one by one
    would promise far too narrow intervals.
    """

    def __init__(self, right: np.ndarray, question: np.ndarray, weights: np.ndarray, seed: int = 0):
        """`right` [N] bool, both labels; `question` [N] integers; `weights` [N] positive, how much a token counts."""
        self._right, self._weights = right, weights
        _, self._question = np.unique(question, return_inverse=True)
        count = self._question.max() + 1
        draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        # A resample without one of the labels has no AUC.
        wrongs = np.bincount(self._question, weights=~right, minlength=count)
        rights = np.bincount(self._question, weights=right, minlength=count)
        self._draws = draws[(draws @ wrongs > 0) & (draws @ rights > 0)]

    def auc(self, score: np.ndarray) -> Estimate:
        """The chance that a right token scores above a mistake."""
        return self._estimate(self._aucs(score))

    def difference(self, score: np.ndarray, baseline: np.ndarray) -> Estimate:
        """How much better the AUC of one score is than that of another, on the same resamples."""
        return self._estimate(self._aucs(score) - self._aucs(baseline))

    def _aucs(self, score: np.ndarray) -> np.ndarray:
        """The AUC of the sample itself, and then of each resample."""
        _, rank = np.unique(score, return_inverse=True)
        ranks = rank.max() + 1

        def auc(times_drawn: np.ndarray) -> float:
            weights = self._weights * times_drawn
            rights = np.bincount(rank, weights=weights * self._right, minlength=ranks)
            wrongs = np.bincount(rank, weights=weights * ~self._right, minlength=ranks)
            below = np.cumsum(wrongs) - wrongs / 2  # a tie counts half
            return float(rights @ below / (rights.sum() * wrongs.sum()))

        drawn = [auc(draw[self._question]) for draw in self._draws]
        return np.array([auc(np.ones(len(rank))), *drawn])

    @staticmethod
    def _estimate(values: np.ndarray) -> Estimate:
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(values[1:], (tail, 1 - tail)) if len(values) > 1 else (np.nan, np.nan)
        return Estimate(float(values[0]), float(low), float(high))
