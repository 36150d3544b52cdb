"""What one engine did with a set of problems, in the figures that every demo and benchmark prints."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from vllm_judge.benchmarks.offline import COUNTERS
from vllm_judge.demo.world import Problem, is_correct
from vllm_judge.measuring.statistics import accuracy

DEFINITIONS = (
    "accepted/cycle: draft tokens accepted per target verification, the target's own token not counted. "
    "judge only: share of the accepted draft tokens that strict verification would have rejected. "
    "Accuracy, and its paired difference, in % with 95% intervals."
)


@dataclass(frozen=True)
class Outcome:
    """Counts of one timed run.

    Attributes:
        correct: for each problem, whether its answer is right.
        tokens: generated tokens; seconds: wall-clock time of the run.
        cycles: target verifications; drafted, accepted, judge_only: draft tokens in them (0 without speculation).
    """

    correct: tuple[bool, ...]
    tokens: int
    seconds: float
    cycles: int = 0
    drafted: int = 0
    accepted: int = 0
    judge_only: int = 0

    @classmethod
    def of(
        cls,
        problems: Sequence[Problem],
        texts: Sequence[str],
        tokens: int,
        seconds: float,
        before: Mapping[str, int],
        after: Mapping[str, int],
    ) -> "Outcome":
        """Grades the texts and takes the difference of the engine's counters (the keys of COUNTERS) over the run."""
        return cls(
            tuple(is_correct(problem, text) for problem, text in zip(problems, texts, strict=True)),
            tokens,
            seconds,
            **{name: after[name] - before[name] for name in COUNTERS},
        )

    @classmethod
    def total(cls, outcomes: "Sequence[Outcome]") -> "Outcome":
        """Several runs taken together, one after the other."""
        counts = (sum(column) for column in zip(*(astuple(one)[1:] for one in outcomes), strict=True))
        return cls(tuple(right for one in outcomes for right in one.correct), *counts)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def problems_per_s(self) -> float:
        return len(self.correct) / self.seconds

    @property
    def accepted_per_cycle(self) -> float:
        return self.accepted / self.cycles if self.cycles else 0.0

    @property
    def judge_only_share(self) -> float:
        return self.judge_only / self.accepted if self.accepted else 0.0

    def figures(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        return {
            "n": len(self.correct),
            "tokens_per_s": self.tokens_per_s,
            "problems_per_s": self.problems_per_s,
            "accepted_per_cycle": self.accepted_per_cycle,
            "judge_only_share": self.judge_only_share,
            "accuracy": accuracy(self.correct).value,
        }
