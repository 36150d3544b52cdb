"""vLLM's own V2 sampler asked, for each kind of request, how its raw logits follow from its processed ones.

It would catch: a request whose constraints are taken for temperature alone, so that evidence would be of the processed
logits; one that temperature alone processed and that is read twice; a sampler that, asked so, processes other requests
than vLLM's does, which would change strict tokens.
"""

from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.states import RequestState

from vllm_judge.engine.v2_raw_scale import with_raw_scale

VOCAB_SIZE = 100
REQUESTS: dict[str, tuple[dict[str, Any], float]] = {
    "greedy": ({"temperature": 0.0}, 1.0),
    "greedy, truncated in vain": ({"temperature": 0.0, "top_p": 0.5, "top_k": 3, "min_p": 0.1}, 1.0),
    "temperature 1": ({"temperature": 1.0}, 1.0),
    "temperature": ({"temperature": 0.7}, 0.7),
    "temperature, and what leaves logits alone": (
        {"temperature": 1.5, "seed": 1, "logprobs": 3, "stop_token_ids": [5], "top_k": VOCAB_SIZE, "top_p": 1.0},
        1.5,
    ),
    "top_p": ({"temperature": 0.7, "top_p": 0.9}, 0.0),
    "top_p at temperature 1": ({"temperature": 1.0, "top_p": 0.9}, 0.0),
    "top_k": ({"temperature": 0.7, "top_k": 5}, 0.0),
    "min_p": ({"temperature": 0.7, "min_p": 0.1}, 0.0),
    "penalty, greedy": ({"temperature": 0.0, "repetition_penalty": 1.2}, 0.0),
    "penalty": ({"temperature": 0.7, "presence_penalty": 0.5}, 0.0),
    "bias": ({"temperature": 0.7, "logit_bias": {3: 1.0}}, 0.0),
    "allowed tokens": ({"temperature": 0.7, "allowed_token_ids": [3, 4]}, 0.0),
    "min_tokens": ({"temperature": 0.7, "min_tokens": 4, "stop_token_ids": [5]}, 0.0),
}


@pytest.fixture
def new_sampler(monkeypatch):
    if not torch.cuda.is_available():
        from vllm.v1.worker.cpu.buffer_utils import UvaBuffer

        # As vLLM's own CPU worker does it: there is no memory to pin.
        monkeypatch.setattr("vllm.v1.worker.gpu.buffer_utils.UvaBuffer", UvaBuffer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def new() -> Sampler:
        sizes = {"max_model_len": 64, "max_num_batched_tokens": 64, "num_speculative_steps": 2}
        states = RequestState(max_num_reqs=1, vocab_size=VOCAB_SIZE, device=device, **sizes)
        return Sampler(VllmConfig(), 1, VOCAB_SIZE, device, states)

    return new


def test_each_kind_of_request_is_told_apart_and_processed_as_vllm_would(new_sampler):
    plain, hooked = new_sampler(), new_sampler()
    add_request = with_raw_scale(hooked)
    # One after the other at one index: nothing of the one before may stay.
    for name, (params, raw_scale) in REQUESTS.items():
        sampling_params = SamplingParams(**params)
        plain.add_request(0, sampling_params)
        assert add_request(0, sampling_params) == raw_scale, name
        assert hooked.needs_logits_processing[0] == plain.needs_logits_processing[0], name


def test_bad_words_are_no_temperature(new_sampler):
    sampling_params = SamplingParams(temperature=0.7, bad_words=["w"])
    sampling_params._bad_words_token_ids = [[7]]  # what vLLM makes of them with the model's tokenizer
    assert with_raw_scale(new_sampler())(0, sampling_params) == 0.0
