"""Whether a judge's scores are still those of its calibration: windows of answers, and a bound on false alarms.

The scores of one answer are alike, so what is counted is the answer: the share of its judged drafts in each bucket of
the judge's probability (kernels/verdicts.py). Calibration and window are means over answers, each of the same weight,
and their distance is Kolmogorov's and Smirnov's: the largest difference of the distribution functions, at the edges of
the buckets.

Where answers are drawn independently, Bernstein's inequality (Boucheron, Lugosi and Massart, Concentration
Inequalities, 2013, section 2.8) holds at each of K edges, and by the union bound for the distance of a mean of n
answers from the distribution that they are drawn from:

    P(distance >= e) <= 2 K exp(-n e^2 / (2 v + 2 e / 3))

with v the variance between answers where it is the largest of all edges, whatever the scores within an answer have to
do with each other. v is measured at calibration. A window is of as many answers as bring the bound for WITHIN down to
FALSE_ALARMS; the limit is WITHIN and what the calibration itself may be off, but for a chance of DOUBT. So on the
traffic of the calibration at most one full window in a million is called drifted, in all but one of a hundred
calibrations; and traffic whose distribution is further than the limit and WITHIN from the calibration's, and whose
answers vary as much, is found by its first full window, but for a chance of one in a million.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

# Of the judge's probability, of equal width: what scores are counted in, here and by the kernels (kernels/verdicts.py).
NUM_BUCKETS = 20
WITHIN = 0.1
FALSE_ALARMS = 1e-6  # a window
DOUBT = 0.01  # a calibration
# Fewer answers do not tell how much answers vary.
MIN_ANSWERS, MAX_ANSWERS = 30, 2**40
MAX_VARIANCE = 0.25  # of numbers from 0 to 1
_EVENTS = 2 * (NUM_BUCKETS - 1)


def margin(variance: float, answers: int, chance: float) -> float:
    """The distance that the mean of so many answers exceeds with this chance at most."""
    log = math.log(_EVENTS / chance)
    return (log / 3 + math.sqrt((log / 3) ** 2 + 2 * answers * variance * log)) / answers


def answers_for(variance: float, distance: float, chance: float) -> int:
    """How many answers exceed this distance with this chance at most."""
    return math.ceil(math.log(_EVENTS / chance) * (2 * variance + 2 * distance / 3) / distance**2)


class CalibratedScores(BaseModel):
    """The scores of judged drafts at calibration, as a head's config.json has them.

    Attributes:
        head: fingerprint of the head whose scores they are; threshold: the one that it judged by.
        answers: how many there were with a judged draft.
        shares: [NUM_BUCKETS] of an answer's judged drafts, in each bucket of the probability; their mean over answers.
        variance: between answers, of the share up to an edge: the largest of all edges.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    head: str
    threshold: float = Field(ge=0.0, le=1.0)
    answers: int = Field(ge=MIN_ANSWERS, le=MAX_ANSWERS)
    shares: list[Annotated[float, Field(ge=0.0, le=1.0)]] = Field(min_length=NUM_BUCKETS, max_length=NUM_BUCKETS)
    variance: float = Field(ge=0.0, le=MAX_VARIANCE)

    @model_validator(mode="after")
    def whole(self) -> "CalibratedScores":
        if abs(sum(self.shares) - 1.0) > 1e-3:
            raise ValueError
        return self

    @classmethod
    def measure(cls, head: str, threshold: float, counts: Sequence[Sequence[int]]) -> "CalibratedScores | None":
        """From the buckets of each answer's judged drafts; None where fewer than MIN_ANSWERS have any."""
        judged = [np.asarray(answer) / sum(answer) for answer in counts if sum(answer)]
        if len(judged) < MIN_ANSWERS:
            return None
        variance = np.cumsum(judged, axis=1).var(axis=0, ddof=1).max()
        return cls(
            head=head,
            threshold=threshold,
            answers=len(judged),
            shares=np.mean(judged, axis=0).round(6).tolist(),
            variance=min(MAX_VARIANCE, round(float(variance), 6)),
        )

    @property
    def window(self) -> int:
        """Answers in a window."""
        return answers_for(self.variance, WITHIN, FALSE_ALARMS)

    @property
    def limit(self) -> float:
        """The distance beyond which a window has drifted."""
        return WITHIN + margin(self.variance, self.answers, DOUBT)

    def distance(self, shares: Sequence[float] | np.ndarray) -> float:
        """Of a window's mean shares [NUM_BUCKETS] from these."""
        return float(np.abs(np.cumsum(shares) - np.cumsum(self.shares)).max())


class Window:
    """The answers since the last full window."""

    def __init__(self, scores: CalibratedScores):
        self._scores = scores
        self._sum, self._answers = np.zeros(NUM_BUCKETS), 0

    def add(self, counts: Sequence[int]) -> float | None:
        """Adds an answer with a judged draft, by the buckets of all of them; the window's distance if it is full now,
        and the next one begins."""
        self._sum += np.asarray(counts) / sum(counts)
        self._answers += 1
        if self._answers < self._scores.window:
            return None
        distance = self._scores.distance(self._sum / self._answers)
        self._sum, self._answers = np.zeros(NUM_BUCKETS), 0
        return distance
