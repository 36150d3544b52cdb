"""What the judge does, from a step's output to /metrics and `llm.get_metrics()`.

device (Verdicts) -> attribute of ModelRunnerOutput -> Scheduler -> SpecDecodingStats -> SpecDecodingProm

Up to the scheduler the verdicts are each request's own: it drops what a request did that has ended meanwhile (aborted,
or stopped while its next step was under way), and only what it keeps is counted, as vLLM counts accepted tokens. From
there on they are counts of verdicts, and what those mean is said here.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.spec_decode.metrics import SpecDecodingStats

from vllm_judge.config import MODES, judge_config
from vllm_judge.engine import drift, gauges
from vllm_judge.engine.fields import add_fields
from vllm_judge.engine.judge import Verdicts
from vllm_judge.kernels.verdicts import BOUNDS, JUDGE_ONLY, OUTCOME_MASK, OUTCOMES, SHADOW, STRICT, decided

OUTPUT_FIELD = "judge_verdicts"
STATS_FIELD = "judge"

JUDGE_ONLY_TOKENS = "vllm:spec_decode_num_judge_only_tokens"
# Every counter, its labels beside vLLM's own, and what it counts. Those with a mode say it of judged requests and of
# those in shadow, whose tokens are the strict test's, and whose verdicts are what the judge would have said.
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    JUDGE_ONLY_TOKENS: (
        (),
        "Number of accepted draft tokens that strict verification alone would have rejected.",
    ),
    "vllm:spec_decode_num_judge_only_tokens_per_pos": (
        ("position",),
        "Accepted draft tokens that strict verification alone would have rejected, per draft position.",
    ),
    "vllm:spec_decode_judge_verdicts": (
        ("mode", "outcome"),
        "Draft tokens by what was found of them: strict (strict verification accepts), judge_only (the judge alone "
        "does), rejected (neither does), forbidden (strict verification rejects, and the judge is not asked).",
    ),
    "vllm:spec_decode_judge_probabilities": (
        ("mode", "le"),
        "Draft tokens that the judge decided on, by its probability: those up to le, as in a histogram.",
    ),
    "vllm:spec_decode_judge_cycles": (("mode",), "Verifications of drafts."),
    "vllm:spec_decode_judge_accepted_tokens": (("mode",), "Draft tokens accepted in them."),
    "vllm:spec_decode_judge_shadow_gain_tokens": (
        (),
        "Draft tokens of requests in shadow that the judge would have let pass beyond the strict prefix.",
    ),
    "vllm:spec_decode_judge_score_windows": (
        ("mode", "drifted"),
        "Windows of answers whose judge scores were compared with those of the head's calibration.",
    ),
}
# As Prometheus writes a histogram's buckets, the last without a bound: histogram_quantile reads these too.
LE = (*map(str, BOUNDS), "+Inf")
DRIFTED = "no", "yes"


@dataclass
class JudgeStats:
    """A scheduler's step.

    Attributes:
        verdicts: how many drafts got each verdict.
        judge_only_per_pos: tokens that only the judge accepted, by place in the draft.
        cycles, accepted: verifications and accepted drafts, of judged requests and of those in shadow.
        gain: drafts that the judge would have let pass beyond the strict prefix.
        windows: of answers, that have become full.
        stopped: whether the engine has stopped judging.
    """

    verdicts: dict[int, int] = field(default_factory=dict)
    judge_only_per_pos: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=lambda: [0, 0])
    accepted: list[int] = field(default_factory=lambda: [0, 0])
    gain: int = 0
    windows: list[drift.Filled] = field(default_factory=list)
    stopped: bool = False

    def observe(self, row: list[int]) -> None:
        """Adds one request's verdicts."""
        found = [verdict for verdict in row if verdict]
        if not found:
            return
        shadow = (found[0] & SHADOW) // SHADOW
        strict = passed = 0
        for position, verdict in enumerate(found):
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
            outcome = verdict & OUTCOME_MASK
            passed += outcome in (STRICT, JUDGE_ONLY)
            strict += outcome == STRICT and strict == position
            if verdict & (OUTCOME_MASK | SHADOW) == JUDGE_ONLY:
                self.judge_only_per_pos[position] += 1
        self.cycles[shadow] += 1
        self.accepted[shadow] += strict if shadow else passed
        self.gain += passed - strict if shadow else 0

    def counted(self) -> dict[str, Mapping[tuple[str, ...], int]]:
        """What to add to each counter, by the values of its labels."""
        outcomes: dict[tuple[str, ...], int] = {}
        probabilities: dict[tuple[str, ...], int] = {}
        names = {outcome: name for name, outcome in OUTCOMES.items()}
        for verdict, count in self.verdicts.items():
            mode, outcome = MODES[(verdict & SHADOW) // SHADOW], verdict & OUTCOME_MASK
            outcomes[mode, names[outcome]] = outcomes.get((mode, names[outcome]), 0) + count
            for bucket in decided([verdict]):
                for bound in LE[bucket:]:
                    probabilities[mode, bound] = probabilities.get((mode, bound), 0) + count
        per_pos = {(str(position),): count for position, count in enumerate(self.judge_only_per_pos)}
        counts: list[Mapping[Any, int]] = [
            {(): sum(self.judge_only_per_pos)},
            per_pos,
            outcomes,
            probabilities,
            {(mode,): count for mode, count in zip(MODES, self.cycles, strict=True)},
            {(mode,): count for mode, count in zip(MODES, self.accepted, strict=True)},
            {(): self.gain},
            Counter((window.mode, DRIFTED[window.drifted]) for window in self.windows),
        ]
        return dict(zip(COUNTERS, counts, strict=True))


def attach(output: Any, verdicts: Verdicts | None) -> Any:
    """Puts a step's verdicts, a row a request, on its output: at once, or when an asynchronous output is read."""
    if hasattr(output, "get_output"):
        read = output.get_output

        def get_output() -> Any:
            return attach(read(), verdicts)

        output.get_output = get_output
    elif output is not None:
        setattr(output, OUTPUT_FIELD, None if verdicts is None else verdicts.rows())
    return output


def extend_stats() -> None:
    """Adds the field to vLLM's SpecDecodingStats."""
    add_fields(SpecDecodingStats, {STATS_FIELD: JudgeStats})


def update_from_output(original: Callable[..., Any], self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
    """Around Scheduler.update_from_output: keeps the step's verdicts for those who count them, and insists that a judge
    has been there."""
    if not hasattr(model_runner_output, OUTPUT_FIELD):
        drafts = scheduler_output.scheduled_spec_decode_tokens and model_runner_output.sampled_token_ids
        if drafts and judge_config(self.vllm_config.speculative_config) is not None:
            raise RuntimeError(
                "vllm-judge: a worker verified draft tokens without the judge: "
                "install vllm-judge-decoding on every node of this engine."
            )
    rows = getattr(model_runner_output, OUTPUT_FIELD, None)
    self.judge_verdicts = {} if rows is None else dict(zip(model_runner_output.req_ids, rows.tolist(), strict=True))
    self.judge_drafts = scheduler_output.scheduled_spec_decode_tokens
    if (guard := drift.guard(self)) is not None:
        guard.end(scheduler_output.finished_req_ids)
    return original(self, scheduler_output, model_runner_output)


def make_spec_decoding_stats(
    original: Callable[..., Any], self: Any, spec_decoding_stats: Any, *, request_id: str, **counts: Any
) -> Any:
    """Around Scheduler.make_spec_decoding_stats, which counts one request's accepted tokens."""
    stats = original(self, spec_decoding_stats, request_id=request_id, **counts)
    row, guard = self.judge_verdicts.get(request_id, []), drift.guard(self)
    windows = []
    if guard is not None:
        guard.observe(self.requests[request_id], row)
        windows, guard.filled = guard.filled, []
    if stats is not None and (row or windows):
        found = getattr(stats, STATS_FIELD)
        if found is None:
            found = JudgeStats(judge_only_per_pos=[0] * self.num_spec_tokens)
            setattr(stats, STATS_FIELD, found)
        found.observe(row)
        found.windows += windows
        found.stopped = guard is not None and guard.stopped
    return stats


def init_prometheus(
    original: Callable[..., None],
    self: Any,
    speculative_config: Any,
    labelnames: list[str],
    per_engine_labelvalues: dict[int, list[object]],
    *args: Any,
    **kwargs: Any,
) -> None:
    """Around SpecDecodingProm.__init__: our counters beside vLLM's, where a judge is configured. Each is there from the
    start with all values of its labels, so that a rate of it is right from the first token on."""
    original(self, speculative_config, labelnames, per_engine_labelvalues, *args, **kwargs)
    self.judge_counters, self.judge_gauges = {}, {}
    self.judge_labels = labelnames, per_engine_labelvalues
    if judge_config(speculative_config) is None:
        return
    values = {
        "position": [str(position) for position in range(speculative_config.num_speculative_tokens)],
        "mode": list(MODES),
        "outcome": list(OUTCOMES),
        "le": list(LE),
        "drifted": list(DRIFTED),
    }
    for name, (own, description) in COUNTERS.items():
        counter = self._counter_cls(name=name, documentation=description, labelnames=[*labelnames, *own])
        self.judge_counters[name] = {
            combination: {
                engine: counter.labels(*of_engine, *combination) for engine, of_engine in per_engine_labelvalues.items()
            }
            for combination in itertools.product(*(values[label] for label in own))
        }


def observe(original: Callable[..., None], self: Any, stats: Any, engine_idx: int = 0) -> None:
    """Around SpecDecodingProm.observe."""
    original(self, stats, engine_idx)
    found = getattr(stats, STATS_FIELD)
    if self.judge_counters and found is not None:
        for name, counts in found.counted().items():
            for combination, count in counts.items():
                self.judge_counters[name][combination][engine_idx].inc(count)
        gauges.observe(self, engine_idx, found.windows, found.stopped)
