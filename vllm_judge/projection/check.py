"""How far projections are off: against published speed-ups, and against runs of scripts/bench_offline.py.

The published ones are of Bachmann et al. (ICLR 2025, arXiv 2501.19309), Llama-3.1 on H100s in 16 bits; step times that
they do not state are those of weights that are read once from memory, at 3.35e12 bytes/s. How many tokens they drafted
is not known to us: 20, 25 and 30 are shown.

A benchmark says what a projection needs. The target's step is that of plain decoding. The time of a strict cycle,
(1 + E[A]) B / (tokens/s), is fitted by a line over the numbers of drafts: its slope is the draft model's step with what
a further token costs the verification, its value at no drafts less the target's step is the overhead. All are taken at
each batch size. How far drafts are accepted is what `vllm-judge compare` measured of the same pair, where it is given,
or else taken from the mean of the run with the most drafts, for strict and for judged decoding each. So strict runs
test how good the line is, and judged runs are foretold: their times are in no fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from vllm_judge.errors import JudgeError
from vllm_judge.projection.projection import Acceptance, Projection, StepTime

PUBLISHED, MEASURED = "published", "measured"
MEMORY_BOUND = float("inf")  # the ridge of a step whose time is known for the batch at hand
H100_BYTES_PER_MS = 3.35e9
WEIGHT_BYTES = {"8B": 8.03e9 * 2, "70B": 70.6e9 * 2, "405B": 405.9e9 * 2}
ACCEPTED_8B_405B = 19.7


class Run(Protocol):
    """A line of a benchmark's `runs`."""

    mode: str
    num_speculative_tokens: int
    batch: int
    tokens_per_s: float
    accepted_per_cycle: float


@dataclass(frozen=True)
class Check:
    """A figure that is known, beside its projection.

    Attributes:
        source: PUBLISHED or MEASURED.
        known, projected: speed-ups over plain decoding; the published step of 8B/70B in ms.
    """

    source: str
    case: str
    known: float
    projected: float

    @property
    def error(self) -> float:
        """Of the projection, relative to what is known."""
        return self.projected / self.known - 1

    def figures(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "error": self.error}


@dataclass(frozen=True)
class StepTimes:
    """Of one batch size, in ms: a target step, one more draft token, and a cycle's time beside both."""

    batch: int
    target_ms: float
    draft_ms: float
    overhead_ms: float


def against_published() -> list[Check]:
    """Every published figure that holds what a projection needs."""
    draft = WEIGHT_BYTES["8B"] / H100_BYTES_PER_MS
    fast_target = 1000 * 3.9 / 129  # 129 tokens/s are 3.9 times plain decoding
    slow_draft = fast_target * WEIGHT_BYTES["8B"] / WEIGHT_BYTES["405B"]  # as if steps were as the parameters are
    cases = [(drafts, 3.9, draft, "gpt-fast") for drafts in (20, 25, 30)] + [(25, 9.7, slow_draft, "transformers")]
    checks = [
        Check(PUBLISHED, "70B on 2 H100, ms a token", 1000 * 3.0 / 141, WEIGHT_BYTES["70B"] / 2 / H100_BYTES_PER_MS)
    ]
    for drafts, known, draft_ms, code in cases:
        acceptance = Acceptance.from_mean(ACCEPTED_8B_405B, drafts)
        projection = Projection(acceptance, StepTime(fast_target, MEMORY_BOUND), StepTime(draft_ms, MEMORY_BOUND))
        case = f"8B/405B in {code}, {ACCEPTED_8B_405B:g} accepted, if of {drafts}"
        checks.append(Check(PUBLISHED, case, known, projection.speed_up(drafts)))
    return checks


def step_times(runs: Sequence[Run]) -> list[StepTimes]:
    """Of every batch size of a benchmark.

    Raises:
        JudgeError: a batch size has no plain run, or strict runs with fewer than two numbers of drafts.
    """
    return [_step_times(runs, batch) for batch in sorted({run.batch for run in runs})]


def _step_times(runs: Sequence[Run], batch: int) -> StepTimes:
    plain = [run for run in runs if (run.mode, run.batch) == ("plain", batch)]
    strict = [run for run in runs if (run.mode, run.batch) == ("strict", batch)]
    drafts = [run.num_speculative_tokens for run in strict]
    if len(plain) != 1 or len(set(drafts)) < 2:
        raise JudgeError(
            f"the benchmark needs one plain run and strict runs of two numbers of drafts at batch {batch}, "
            f"found {len(plain)} and {len(set(drafts))}."
        )
    target = 1000 * batch / plain[0].tokens_per_s
    cycles = [1000 * batch * (1 + run.accepted_per_cycle) / run.tokens_per_s for run in strict]
    draft, cycle_without_drafts = np.polyfit(drafts, cycles, 1)
    return StepTimes(batch, target, float(draft), float(cycle_without_drafts) - target)


def against_benchmark(runs: Sequence[Run], measured: Mapping[str, Acceptance] | None = None) -> list[Check]:
    """Every strict and judged run of a benchmark, by batch.

    Args:
        measured: acceptance by mode, "strict" and "judge"; where one is missing, the mean of its longest run stands in.

    Raises:
        JudgeError: as `step_times`.
    """
    accepted = _accepted(runs) | dict(measured or {})
    return [
        check
        for times in step_times(runs)
        for mode in ("strict", "judge")
        for check in _foretold(runs, times, mode, accepted)
    ]


def _accepted(runs: Sequence[Run]) -> dict[str, Acceptance]:
    """By mode, from the run with the most drafts."""
    longest = {run.mode: run for run in sorted(runs, key=lambda run: run.num_speculative_tokens) if run.mode != "plain"}
    return {
        mode: Acceptance.from_mean(run.accepted_per_cycle, run.num_speculative_tokens) for mode, run in longest.items()
    }


def _foretold(runs: Sequence[Run], times: StepTimes, mode: str, accepted: Mapping[str, Acceptance]) -> Iterator[Check]:
    for run in runs:
        if (run.mode, run.batch) == (mode, times.batch):
            target, draft = (StepTime(ms, MEMORY_BOUND) for ms in (times.target_ms, times.draft_ms))
            projection = Projection(accepted[mode], target, draft, times.overhead_ms)
            known = run.tokens_per_s * times.target_ms / (1000 * times.batch)
            case = f"{mode}, {run.num_speculative_tokens} drafts, batch {run.batch}"
            yield Check(MEASURED, case, known, projection.speed_up(run.num_speculative_tokens))


def span(checks: Sequence[Check]) -> str:
    """The smallest and largest error, in words."""
    errors = [check.error for check in checks]
    return f"{min(errors):+.0%} to {max(errors):+.0%}"
