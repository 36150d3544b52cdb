"""A real vLLM engine in a process of its own, driven over a pipe: one JSON line in, one out (see conftest.Engine)."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import StructuredOutputsParams

from vllm_judge.engine.plugin import register


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    options = dict(options)
    if "structured_outputs" in options:
        options["structured_outputs"] = StructuredOutputsParams(**options["structured_outputs"])
    return SamplingParams(**options)


def schedule_asynchronously() -> None:
    """vLLM's default on a GPU, which its CPU platform switches off when the configuration is made."""
    register()  # as vLLM does before it makes a configuration
    create_engine_config = EngineArgs.create_engine_config

    @functools.wraps(create_engine_config)
    def create(*args: Any, **kwargs: Any) -> Any:
        config = create_engine_config(*args, **kwargs)
        config.scheduler_config.async_scheduling = True
        return config

    EngineArgs.create_engine_config = create


@contextlib.contextmanager
def another_front_end(used: bool) -> Iterator[None]:
    """One that does not check requests as vLLM's Python front end does, such as its Rust one."""
    check = SamplingParams._validate_spec_decode
    if used:
        SamplingParams._validate_spec_decode = lambda *_: None
    try:
        yield
    finally:
        SamplingParams._validate_spec_decode = check


def generate(
    llm: LLM, prompts: list[list[int]], params: list[dict[str, Any]], statistics: bool = False
) -> list[dict[str, Any]]:
    outputs = llm.generate(
        [{"prompt_token_ids": p} for p in prompts], [sampling_params(p) for p in params], use_tqdm=False
    )
    answers = []
    for output in outputs:
        completion = output.outputs[0]
        logprobs = None
        if completion.logprobs is not None:
            logprobs = [{str(token): entry.logprob for token, entry in row.items()} for row in completion.logprobs]
        answers.append(
            {"tokens": list(completion.token_ids), "logprobs": logprobs, "finish_reason": completion.finish_reason}
        )
        if statistics and completion.spec_decode_metrics is not None:
            answers[-1]["statistics"] = completion.spec_decode_metrics.to_dict()
    return answers


def metrics(llm: LLM) -> dict[str, float]:
    """Counters by name, and by the values of labels where they have some of their own."""
    counters = ("vllm:spec_decode_", "vllm:num_preemptions", "vllm:judge_")
    found = [metric for metric in llm.get_metrics() if metric.name.startswith(counters) and hasattr(metric, "value")]
    values = {}
    for metric in found:
        labels = [value for name, value in metric.labels.items() if name not in ("engine", "model_name")]
        name = metric.name.removeprefix("vllm:").removeprefix("spec_decode_num_").removeprefix("spec_decode_")
        values[" ".join([name, *labels])] = metric.value
    return values


def main() -> None:
    requests, replies = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
    options = json.loads(requests.readline())
    if options.pop("asynchronous"):
        schedule_asynchronously()
    llm = LLM(**options)
    replies.write("ready\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        try:
            if request["call"] == "generate":
                with another_front_end(request["unchecked"]):
                    reply: Any = generate(llm, request["prompts"], request["params"], request["statistics"])
            else:
                reply = metrics(llm)
        except (ValueError, VLLMClientError) as error:
            reply = {"error": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
