"""A real vLLM engine in a process of its own, driven over a pipe: one JSON line in, one out (see conftest.Engine)."""

import json
import os
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import StructuredOutputsParams


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    options = dict(options)
    if "structured_outputs" in options:
        options["structured_outputs"] = StructuredOutputsParams(**options["structured_outputs"])
    return SamplingParams(**options)


def generate(llm: LLM, prompts: list[list[int]], params: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
    return answers


def metrics(llm: LLM) -> dict[str, float]:
    counters = ("vllm:spec_decode_num_", "vllm:num_preemptions")
    found = [metric for metric in llm.get_metrics() if metric.name.startswith(counters) and hasattr(metric, "value")]
    return {metric.name.removeprefix("vllm:").removeprefix("spec_decode_num_"): metric.value for metric in found}


def main() -> None:
    requests, replies = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
    llm = LLM(**json.loads(requests.readline()))
    replies.write("ready\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        try:
            if request["call"] == "generate":
                reply: Any = generate(llm, request["prompts"], request["params"])
            else:
                reply = metrics(llm)
        except (ValueError, VLLMClientError) as error:
            reply = {"error": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
