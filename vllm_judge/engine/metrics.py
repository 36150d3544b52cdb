"""The judge-only counter, from a step's output to /metrics and `llm.get_metrics()`.

device (JudgeOnlyCounts) -> attribute of ModelRunnerOutput -> Scheduler -> SpecDecodingStats -> SpecDecodingProm

Up to the scheduler the counts are each request's own: it drops what a request did that has ended meanwhile (aborted, or
stopped while its next step was under way), and only what it keeps is counted, as vLLM counts accepted tokens.
"""

from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.utils import create_metric_per_engine
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from vllm_judge.engine import request_metrics
from vllm_judge.engine.fields import add_fields
from vllm_judge.engine.judge import JudgeOnlyCounts

OUTPUT_FIELD = "judge_only_tokens"
STATS_FIELD = "num_judge_only_tokens"
COUNTER = "vllm:spec_decode_num_judge_only_tokens"
DESCRIPTION = "Number of accepted draft tokens that strict verification alone would have rejected."


def attach(output: Any, counts: JudgeOnlyCounts | None) -> Any:
    """Puts a step's counts, by request id, on its output: at once, or when an asynchronous output is read."""
    if hasattr(output, "get_output"):
        read = output.get_output

        def get_output() -> Any:
            return attach(read(), counts)

        output.get_output = get_output
    elif output is not None:
        setattr(output, OUTPUT_FIELD, {} if counts is None else counts.by_request(output.req_ids))
    return output


def extend_stats() -> None:
    """Adds the field to vLLM's SpecDecodingStats."""
    add_fields(SpecDecodingStats, {STATS_FIELD: 0})


def update_from_output(original: Callable[..., Any], self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
    """Around Scheduler.update_from_output: keeps the step's counts for `make_spec_decoding_stats`, and insists that
    there are some."""
    self.judge_only_tokens = getattr(model_runner_output, OUTPUT_FIELD, None)
    judge = _judge(self.vllm_config)
    if self.judge_only_tokens is None:
        drafts = scheduler_output.scheduled_spec_decode_tokens and model_runner_output.sampled_token_ids
        if drafts and judge is not None:
            raise RuntimeError(
                "vllm-judge: a worker verified draft tokens without the judge: "
                "install vllm-judge-decoding on every node of this engine."
            )
        self.judge_only_tokens = {}
    if judge is not None:
        request_metrics.observe_step(self, judge, scheduler_output, model_runner_output)
    return original(self, scheduler_output, model_runner_output)


def make_spec_decoding_stats(
    original: Callable[..., Any], self: Any, spec_decoding_stats: Any, *, request_id: str, **counts: Any
) -> Any:
    """Around Scheduler.make_spec_decoding_stats, which counts one request's accepted tokens."""
    stats = original(self, spec_decoding_stats, request_id=request_id, **counts)
    judge_only = self.judge_only_tokens.get(request_id, 0)
    request_metrics.observe_judge_only(self, request_id, judge_only)
    if stats is not None:
        setattr(stats, STATS_FIELD, getattr(stats, STATS_FIELD) + judge_only)
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
    """Around SpecDecodingProm.__init__: one counter more, where a judge is configured."""
    original(self, speculative_config, labelnames, per_engine_labelvalues, *args, **kwargs)
    self.counter_judge_only = None
    if getattr(speculative_config, "judge", None) is not None:
        counter = self._counter_cls(name=COUNTER, documentation=DESCRIPTION, labelnames=labelnames)
        self.counter_judge_only = create_metric_per_engine(counter, per_engine_labelvalues)


def observe(original: Callable[..., None], self: Any, stats: Any, engine_idx: int = 0) -> None:
    """Around SpecDecodingProm.observe."""
    original(self, stats, engine_idx)
    if self.counter_judge_only is not None:
        self.counter_judge_only[engine_idx].inc(getattr(stats, STATS_FIELD))


def _judge(vllm_config: Any) -> Any:
    return getattr(vllm_config.speculative_config, "judge", None)
