"""What a judge adds to vLLM's figures of one request (`per_request_spec_decode_metrics`).

RequestSpecDecodeMetrics counts a request's verifications in the scheduler, travels with its last output, and is given
out as CompletionOutput.spec_decode_metrics and, over HTTP, as metrics.speculative_decoding. Symptom: it says neither
how many tokens only the judge accepted, nor how many steps had no drafts to verify, without which a request's target
passes cannot be counted. Why: vLLM counts what it verifies itself. How: three fields more, carried the same way. Until:
a verifier can add figures of its own (no issue upstream).
"""

from collections.abc import Callable
from typing import Any

from vllm.v1.metrics.stats import RequestSpecDecodeMetrics

from vllm_judge.config import JudgeConfig
from vllm_judge.engine.fields import add_fields

# judge_head: see `head.fingerprint`; the steps are those after the first token, which comes with the prompt's own pass.
FIELDS: dict[str, Any] = {"judge_head": "", "num_judge_only_tokens": 0, "num_steps_without_drafts": 0}


def extend_request_metrics() -> None:
    """Adds the fields to vLLM's RequestSpecDecodeMetrics."""
    add_fields(RequestSpecDecodeMetrics, FIELDS)


def to_dict(original: Callable[..., dict[str, Any]], self: Any) -> dict[str, Any]:
    """Around RequestSpecDecodeMetrics.to_dict, which makes the response of it."""
    added = {name: getattr(self, name) for name in FIELDS} if self.judge_head else {}
    return original(self) | added


def observe_step(scheduler: Any, judge: JudgeConfig, scheduler_output: Any, model_runner_output: Any) -> None:
    """Notes who judges, and counts the steps that give requests a token without a draft to verify."""
    if scheduler.spec_decode_metrics_level == "none":
        return
    sampled, index = model_runner_output.sampled_token_ids, model_runner_output.req_id_to_index
    for request_id in scheduler_output.num_scheduled_tokens:
        request = scheduler.requests.get(request_id)
        if request is None or request.is_finished() or request.spec_decode_metrics is None:
            continue
        request.spec_decode_metrics.judge_head = judge.fingerprint
        gives_token = sampled and request_id in index and sampled[index[request_id]]
        drafted = scheduler_output.scheduled_spec_decode_tokens.get(request_id)
        if gives_token and not drafted and request.num_output_tokens:
            request.spec_decode_metrics.num_steps_without_drafts += 1


def observe_judge_only(scheduler: Any, request_id: str, count: int) -> None:
    """Adds what only the judge accepted of a request's drafts in one step."""
    metrics = scheduler.requests[request_id].spec_decode_metrics
    if metrics is not None:
        metrics.num_judge_only_tokens += count
