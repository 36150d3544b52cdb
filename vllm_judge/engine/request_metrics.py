"""What a judge adds to vLLM's figures of one request (`per_request_spec_decode_metrics`): what its answer was made of.

RequestSpecDecodeMetrics counts a request's verifications in the scheduler, travels with its last output, and is given
out as CompletionOutput.spec_decode_metrics and, over HTTP, as metrics.speculative_decoding, of streams in their last
chunk. Symptom: it says neither which tokens only the judge accepted, nor how many steps had no drafts to verify,
without which a request's target passes cannot be counted, nor what the judge thought of them. Why: vLLM counts what it
verifies itself. How: five fields more, carried the same way. Until: a verifier can add figures of its own (no issue
upstream).
"""

from collections.abc import Callable, Sequence
from typing import Any

from vllm.v1.metrics.stats import RequestSpecDecodeMetrics

from vllm_judge.config import judge_config
from vllm_judge.engine import drift
from vllm_judge.engine.fields import add_fields
from vllm_judge.kernels.verdicts import JUDGE_ONLY, NUM_BUCKETS, OUTCOME_MASK, SHADOW, decided

HEAD = "judge_head"  # see `head.fingerprint`; None once the engine has stopped judging
# Of the accepted drafts, as vLLM counts them: those of the last verification count whole, wherever the answer ends.
NUMBER = "num_judge_only_tokens"
# At level "detailed": their places in the answer (0 is its first token), which hold no token behind its end.
POSITIONS = "judge_only_positions"
# Behind the first token, which comes with the prompt's own pass.
UNDRAFTED = "num_steps_without_drafts"
# Of the drafts that the judge decided on: how many in each bucket of its probability, as in /metrics.
PROBABILITIES = "judge_probabilities"
FIELDS = {HEAD: str, NUMBER: int, POSITIONS: list[int], UNDRAFTED: int, PROBABILITIES: list[int]}


def extend_request_metrics() -> None:
    """Adds the fields to vLLM's RequestSpecDecodeMetrics."""
    add_fields(RequestSpecDecodeMetrics, FIELDS)


def update_request(original: Callable[..., Any], self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around Scheduler._update_request_with_output, which adds a step's tokens to a request, up to one that ends it."""
    first = request.num_output_tokens
    updated = original(self, request, *args, **kwargs)
    metrics, judge = request.spec_decode_metrics, judge_config(self.vllm_config.speculative_config)
    if metrics is not None and judge is not None:
        row = self.judge_verdicts.get(request.request_id, ())
        # A step's tokens are the accepted drafts, then the target's own.
        places = _judge_only(row)
        undrafted = first > 0 and not self.judge_drafts.get(request.request_id)
        guard = drift.guard(self)
        setattr(metrics, HEAD, None if guard is not None and guard.stopped else judge.fingerprint)
        setattr(metrics, NUMBER, (getattr(metrics, NUMBER) or 0) + len(places))
        setattr(metrics, UNDRAFTED, (getattr(metrics, UNDRAFTED) or 0) + undrafted)
        counts = getattr(metrics, PROBABILITIES) or [0] * NUM_BUCKETS
        for bucket in decided(row):
            counts[bucket] += 1
        setattr(metrics, PROBABILITIES, counts)
        if self.spec_decode_metrics_level == "detailed":
            in_answer = [first + place for place in places if first + place < request.num_output_tokens]
            setattr(metrics, POSITIONS, [*(getattr(metrics, POSITIONS) or ()), *in_answer])
    return updated


def _judge_only(row: Sequence[int]) -> list[int]:
    """The places, in a step's drafts, of those that only the judge accepted."""
    return [place for place, verdict in enumerate(row) if verdict & (OUTCOME_MASK | SHADOW) == JUDGE_ONLY]


def to_dict(original: Callable[..., dict[str, Any]], self: Any) -> dict[str, Any]:
    """Around RequestSpecDecodeMetrics.to_dict, which makes the response of it."""
    ours = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
    return original(self) | ours
