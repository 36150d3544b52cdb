"""What a served judge does on live traffic, or would do: a server's counters over a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import requests as http
from prometheus_client.parser import text_string_to_metric_families

from vllm_judge.config import SHADOW
from vllm_judge.errors import JudgeError
from vllm_judge.measuring.statistics import CONFIDENCE, RESAMPLES, Estimate, ratio
from vllm_judge.quality.counters import JUDGE_ONLY, STOPPED

CYCLES = "vllm:spec_decode_judge_cycles_total"
ACCEPTED = "vllm:spec_decode_judge_accepted_tokens_total"
GAIN = "vllm:spec_decode_judge_shadow_gain_tokens_total"
WINDOWS = "vllm:spec_decode_judge_score_windows_total"
DRIFT, LIMIT = "vllm:judge_drift", "vllm:judge_drift_limit"

DEFINITIONS = {
    "strict": "draft tokens accepted in a cycle of the requests in shadow, which are decoded strictly",
    "floor": "the same with those that the judge would have let pass: less than it would come to if it were heeded, "
    "since strict text breaks drafts off that a judged text would have gone on with",
    "judged": "draft tokens accepted in a cycle of the requests that are judged",
    "judge_only": "share of these that strict verification would have rejected",
    "speedup": "tokens of a judged forward pass of the target, by those of one in shadow; not time: see project",
}
SCORES_DEFINITION = {
    "scores": "distance of the judge's scores in the last full window of answers from those of the head's calibration; "
    "in shadow for information only, since drafts are judged there in the target's words",
}


@dataclass(frozen=True)
class Counts:
    """Of a server since it started, or, as a difference, of a while.

    Attributes:
        shadow_cycles, shadow_accepted, gain: verifications of requests in shadow, drafts accepted in them, and drafts
            that the judge would have let pass beyond those.
        judged_cycles, judged_accepted, judge_only: of judged requests; the last as everywhere.
    """

    shadow_cycles: float
    shadow_accepted: float
    gain: float
    judged_cycles: float
    judged_accepted: float
    judge_only: float

    @classmethod
    def parse(cls, text: str) -> "Counts":
        """From the text of /metrics; counters of several engines behind one server are added up.

        Raises:
            JudgeError: the server has no judge, or is no vLLM server.
        """
        totals: dict[tuple[str, str | None], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, sample.labels.get("mode")
                totals[key] = totals.get(key, 0.0) + sample.value
        wanted = (
            *((CYCLES, "shadow"), (ACCEPTED, "shadow"), (GAIN, None)),
            *((CYCLES, "judge"), (ACCEPTED, "judge"), (JUDGE_ONLY, None)),
        )
        if any(key not in totals for key in wanted):
            raise JudgeError("the server counts no verdicts of a judge: serve it with a section `judge`.")
        return cls(*(totals[key] for key in wanted))

    def __sub__(self, earlier: "Counts") -> "Counts":
        now, then = asdict(self), asdict(earlier)
        return Counts(**{name: now[name] - then[name] for name in now})


@dataclass(frozen=True)
class Watched:
    """What was seen; see DEFINITIONS. None where no request of that kind was served.

    Attributes:
        shadow_cycles, judged_cycles: verifications that the figures are of.
    """

    shadow_cycles: float
    judged_cycles: float
    strict: Estimate | None
    floor: Estimate | None
    judged: Estimate | None
    judge_only: Estimate | None
    speedup: Estimate | None


@dataclass(frozen=True)
class Scores:
    """An engine's drift guard, for requests of one mode.

    Attributes:
        engine, mode: whose; windows: of answers that were full since it started, drifted: how many of them had.
        distance: of the last one; limit: beyond which it has drifted; stopped: whether the engine has stopped judging.
    """

    engine: str
    mode: str
    windows: int
    drifted: int
    distance: float
    limit: float
    stopped: bool

    @classmethod
    def parse(cls, text: str) -> "list[Scores]":
        """From the text of /metrics; none where the head carries no scores, or judges by another threshold."""
        values: dict[tuple[str | None, ...], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                values[sample.name, labels.get("engine"), labels.get("mode"), labels.get("drifted")] = sample.value
        found = []
        for (name, engine, mode, _), distance in values.items():
            if name == DRIFT and engine is not None and mode is not None:
                drifted = values[WINDOWS, engine, mode, "yes"]
                windows = drifted + values[WINDOWS, engine, mode, "no"]
                limit, stopped = values[LIMIT, engine, None, None], values[STOPPED, engine, None, None]
                found.append(cls(engine, mode, int(windows), int(drifted), distance, limit, bool(stopped)))
        return found

    def __str__(self) -> str:
        whose = f"engine {self.engine}, {'in shadow' if self.mode == SHADOW else 'judged'}: "
        if self.stopped:
            whose += "judging has stopped; "
        if not self.windows:
            return f"{whose}no window of answers is full yet"
        if self.mode == SHADOW:
            distance = f"{self.distance:.3f} from the calibration, which was judged"
            return f"{whose}{distance}, in the last of {self.windows} windows"
        verdict = "beyond" if self.distance > self.limit else "within"
        return (
            f"{whose}{self.distance:.3f} from the calibration, {verdict} the limit of {self.limit:.3f} "
            f"({self.drifted} of {self.windows} windows were beyond it)"
        )


def read_scores(url: str) -> list[Scores]:
    """What a server's drift guards have found; raises as `read`."""
    return Scores.parse(_metrics(url))


def read(url: str) -> Counts:
    """A server's counters now.

    Raises:
        JudgeError: no vLLM server with a judge answers there.
    """
    return Counts.parse(_metrics(url))


def _metrics(url: str) -> str:
    try:
        response = http.get(f"{url.rstrip('/')}/metrics", timeout=60)
        response.raise_for_status()
    except http.RequestException as error:
        raise JudgeError(f"no vLLM server answers at {url}/metrics: {error}") from None
    return response.text


def watch(now: Callable[[], Counts], seconds: float, slices: int) -> list[Counts]:
    """What is counted in each of so many slices of a time that begins now."""
    start, before, found = time.monotonic(), now(), []
    for i in range(slices):
        time.sleep(max(0.0, start + seconds * (i + 1) / slices - time.monotonic()))
        counted = now()
        found.append(counted - before)
        before = counted
    return found


def summarise(slices: Sequence[Counts]) -> Watched:
    """Ratios over all slices, with percentile bootstraps over them."""

    def estimate(above: str, below: str, more: str | None = None) -> Estimate | None:
        rows = [asdict(one) for one in slices]
        pairs = [(row[above] + (row[more] if more else 0.0), row[below]) for row in rows if row[below]]
        above_all, below_all = [one for one, _ in pairs], [one for _, one in pairs]
        return ratio(above_all, below_all) if len(pairs) > 1 else _alone(pairs)

    total = {name: sum(getattr(one, name) for one in slices) for name in Counts.__dataclass_fields__}
    return Watched(
        shadow_cycles=total["shadow_cycles"],
        judged_cycles=total["judged_cycles"],
        strict=estimate("shadow_accepted", "shadow_cycles"),
        floor=estimate("shadow_accepted", "shadow_cycles", "gain"),
        judged=estimate("judged_accepted", "judged_cycles"),
        judge_only=estimate("judge_only", "judged_accepted"),
        speedup=_speedup(slices) if total["shadow_cycles"] and total["judged_cycles"] else None,
    )


def _alone(pairs: list[tuple[float, float]]) -> Estimate | None:
    return Estimate(*[above / below for above, below in pairs] * 3) if pairs else None


def _speedup(slices: Sequence[Counts]) -> Estimate:
    table = np.array([list(asdict(one).values()) for one in slices])

    def value(rows: np.ndarray) -> Any:
        shadow_cycles, shadow_accepted, _, judged_cycles, judged_accepted, _ = np.moveaxis(rows.sum(axis=-2), -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (1 + judged_accepted / judged_cycles) / (1 + shadow_accepted / shadow_cycles)

    rng = np.random.default_rng(0)
    resampled = value(table[rng.integers(len(table), size=(RESAMPLES, len(table)))])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled[np.isfinite(resampled)], [tail, 1 - tail])
    return Estimate(float(value(table)), float(low), float(high))
