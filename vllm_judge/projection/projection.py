"""How fast speculative decoding would be on hardware that is not at hand: a projection, never a measurement.

Speculative decoding (Leviathan et al., ICML 2023, arXiv 2211.17192) drafts M tokens one by one, verifies them in one
target pass, and gains one token more than are accepted. With A accepted drafts in a cycle and a batch of B requests:

    speed-up(M, B) = (1 + E[A]) * T(B) / (M * D(B) + T(B * (M + 1)) + overhead)

T(n), D(n) are the step times of target and draft model for n tokens. Where every draft passes with the same chance a,
independent of the others, 1 + E[A] is their equation (1), (1 - a^(M+1)) / (1 - a), and where a verification costs no
more than a step and nothing is lost to overhead, the speed-up of one request is their theorem 3.8,
(1 - a^(M+1)) / ((1 - a) (M c + 1)) with c = D / T.

A step is bound by memory until its tokens keep the arithmetic units busy, then its time grows with their number (the
roofline of Williams et al., CACM 2009): T(n) = T(1) * max(1, n / ridge). Reading the key-value cache, which grows with
batch and context, is not in the model: with long contexts, large batches come out better than they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import optimize

from vllm_judge.errors import JudgeError

LONGEST = 128  # drafts per cycle that a model without a measured end is asked about, at most


@dataclass(frozen=True)
class Acceptance:
    """How far drafts are accepted.

    Attributes:
        survival: survival[i] is the chance that at least i + 1 drafts of a cycle are accepted, for all that are known.
        origin: where it is from, for the reader.
    """

    survival: tuple[float, ...]
    origin: str

    @classmethod
    def measured(cls, counts: Sequence[int], origin: str) -> "Acceptance":
        """From the numbers of cycles that accepted 0, 1, ..., M drafts, of M drafted.

        Fewer drafts than M are taken to end a cycle early and to change nothing else; more than M are not known.

        Raises:
            JudgeError: there is no cycle, or no draft.
        """
        if len(counts) < 2 or min(counts) < 0 or not sum(counts):
            raise JudgeError(f"counts of cycles by accepted drafts are needed, found {list(counts)}.")
        at_least = np.cumsum(counts[::-1])[::-1] / sum(counts)
        return cls(tuple(at_least[1:].tolist()), origin)

    @classmethod
    def from_mean(cls, accepted: float, num_drafts: int) -> "Acceptance":
        """From the mean number of accepted drafts, of `num_drafts` drafted, as if each passed with the same chance.

        Raises:
            JudgeError: the mean is not between 0 and the number of drafts.
        """
        if not 0.0 <= accepted <= num_drafts:
            raise JudgeError(f"of {num_drafts} drafts, 0 to {num_drafts} are accepted, not {accepted:g}.")
        powers = np.arange(1, num_drafts + 1)
        chance = optimize.brentq(lambda a: float((a**powers).sum()) - accepted, 0.0, 1.0)
        return cls(
            tuple((chance ** np.arange(1, LONGEST + 1)).tolist()),
            f"a mean of {accepted:g} accepted of {num_drafts}, as if each draft passed with the chance {chance:.3f}",
        )

    def expected(self, num_drafts: int) -> float:
        """Mean number of accepted drafts of `num_drafts`."""
        return sum(self.survival[:num_drafts])


@dataclass(frozen=True)
class StepTime:
    """A model's time for a forward pass.

    Attributes:
        seconds: for one token; any unit, if it is the same everywhere.
        ridge: tokens in a pass from which on it is bound by arithmetic, and its time grows with them. For 16-bit
            weights about the accelerator's FLOP/s by its bytes/s: H100 SXM 989e12 / 3.35e12 = 295.
    """

    seconds: float
    ridge: float

    def of(self, tokens: float) -> float:
        """Time for a pass over `tokens` tokens, one or several of each request."""
        return self.seconds * max(1.0, tokens / self.ridge)


@dataclass(frozen=True)
class Projection:
    """What the module's formula says for a pair of models.

    Attributes:
        overhead: time of a cycle beside the models' passes, in the unit of the step times.
    """

    acceptance: Acceptance
    target: StepTime
    draft: StepTime
    overhead: float = 0.0

    def speed_up(self, num_drafts: int, batch: int = 1) -> float:
        """Tokens per second by those of plain decoding, for `batch` requests at a time; 1 without drafts."""
        if num_drafts == 0:
            return 1.0
        cycle = num_drafts * self.draft.of(batch) + self.target.of(batch * (num_drafts + 1)) + self.overhead
        return (1 + self.acceptance.expected(num_drafts)) * self.target.of(batch) / cycle

    @cached_property
    def longest(self) -> int:
        """The most drafts per cycle that there are figures for."""
        return len(self.acceptance.survival)

    def best_num_drafts(self, batch: int = 1) -> int:
        """The number of drafts per cycle with the highest speed-up, 0 where drafting does not pay."""
        return max(range(self.longest + 1), key=lambda num_drafts: self.speed_up(num_drafts, batch))

    def break_even_batch(self, num_drafts: int) -> int | None:
        """The largest batch at which `num_drafts` drafts per cycle are no slower than none.

        0 where they are slower even for one request; None where they never are, as when the draft model is free and
        all is accepted. Speed-up falls, or stays, as the batch grows, where the draft model's ridge is not above the
        target's; beyond both ridges it stays.
        """
        pays = [self.speed_up(num_drafts, batch) >= 1.0 for batch in range(1, self._flat_from + 1)]
        return None if all(pays) else pays.index(False)

    @cached_property
    def _flat_from(self) -> int:
        """A batch from which on the speed-up, overhead apart, stays as it is."""
        return int(max(self.target.ridge, self.draft.ridge)) + 1


def figures(projection: Projection, drafted: int, batches: Sequence[int]) -> dict[str, Any]:
    """What `vllm-judge project --json` writes of a projection with `drafted` drafts per cycle, for each batch size."""
    best = [projection.best_num_drafts(size) for size in batches]
    return {
        "projection": True,
        "acceptance": projection.acceptance.origin,
        "target_step_ms": projection.target.seconds,
        "draft_step_ms": projection.draft.seconds,
        "ridge_tokens": projection.target.ridge,
        "overhead_ms": projection.overhead,
        "num_drafts": drafted,
        "expected_accepted": projection.acceptance.expected(drafted),
        "break_even_batch": projection.break_even_batch(drafted),
        "batches": [
            {
                "batch": size,
                "speed_up": projection.speed_up(drafted, size),
                "best_num_drafts": most,
                "best_speed_up": projection.speed_up(most, size),
            }
            for size, most in zip(batches, best, strict=True)
        ],
    }
