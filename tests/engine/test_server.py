"""`vllm serve TARGET --speculative-config judge.json`, driven over HTTP as a client would."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from server import START_SECONDS, counted, serve, serving

from vllm_judge.engine.metrics import COUNTERS
from vllm_judge.quality.shadow import read

# vLLM counts a step a moment after it has handed out the step's tokens.
SETTLE_SECONDS = 0.5


@pytest.fixture(scope="module")
def judge_json(models: Path) -> Path:
    path = models / "judge.json"
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 4, "judge": {"model": "random"}}
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def client(models: Path, judge_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    statistics = ("--per-request-spec-decode-metrics", "detailed")
    with serving(models, str(judge_json), tmp_path_factory.mktemp("server") / "log", *statistics) as http:
        yield http


def complete(client: httpx.Client, **options: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": tiny.prompts(1)[0], "temperature": 0, "max_tokens": 24, **options}
    return client.post("/v1/completions", json=body)


def test_a_request_is_judged_and_counted_and_its_dial_obeyed(client):
    texts = {}
    for name, dial in {"default": {}, "off": {"judge": "false"}, "strict": {"judge_threshold": 1}}.items():
        before = counted(client, "judge_only_tokens")
        texts[name] = complete(client, vllm_xargs=dial).json()["choices"][0]["text"]
        assert (counted(client, "judge_only_tokens") > before) == (name == "default")
    assert texts["off"] == texts["strict"] != texts["default"]


def test_a_malformed_dial_is_a_400_of_one_sentence(client):
    answer = complete(client, vllm_xargs={"judge_threshold": 7})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "judge_threshold must be a number from 0 to 1, found 7."
    assert complete(client).status_code == 200


def test_a_scope_that_the_server_does_not_know_is_a_400(client):
    answer = complete(client, vllm_xargs={"judge_scope": "thinking"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "judge_scope 'thinking' needs an engine that knows what begins and ends reasoning: "
        "serve the model with --reasoning-parser or --reasoning-config."
    )


def test_a_response_and_a_streams_last_chunk_say_what_the_answer_was_made_of(client):
    made_of = complete(client).json()["metrics"]["speculative_decoding"]
    assert 0 < made_of["num_judge_only_tokens"] <= made_of["num_accepted_draft_tokens"]
    places = made_of["judge_only_positions"]
    assert 0 < len(places) <= made_of["num_judge_only_tokens"] and places == sorted(set(places)) and places[-1] < 24
    stream = complete(client, stream=True, stream_options={"include_usage": True}).text
    *_, last, _ = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert json.loads(last)["metrics"]["speculative_decoding"] == made_of
    shadow = complete(client, vllm_xargs={"judge_mode": "shadow"}).json()["metrics"]["speculative_decoding"]
    assert (shadow["num_judge_only_tokens"], shadow["judge_only_positions"]) == (0, [])


def test_what_is_watched_of_a_server_is_what_its_requests_were(client):
    before = read(str(client.base_url))
    made_of = {
        mode: complete(client, vllm_xargs={"judge_mode": mode}).json()["metrics"]["speculative_decoding"]
        for mode in ("judge", "shadow")
    }
    time.sleep(SETTLE_SECONDS)
    found = read(str(client.base_url)) - before
    shadow, judged = made_of["shadow"], made_of["judge"]
    assert (found.shadow_cycles, found.shadow_accepted) == (
        shadow["num_spec_steps"],
        shadow["num_accepted_draft_tokens"],
    )
    assert (found.judged_cycles, found.judged_accepted) == (
        judged["num_spec_steps"],
        judged["num_accepted_draft_tokens"],
    )
    assert found.gain > 0 < found.judge_only


def test_metrics_say_that_this_engine_has_a_judge_and_show_every_counter_from_the_start(client, models):
    lines = client.get("/metrics").text.splitlines()
    [info] = [line for line in lines if line.startswith("vllm:judge_info{")]
    assert info.endswith(" 1.0") and f'head="{models / "random"}"' in info
    assert all(label in info for label in ('mode="judge"', 'scope="everywhere"', 'share="1.0"', 'threshold="0.5"'))
    shown = {name: sum(line.startswith(f"{name}_total{{") for line in lines) for name in COUNTERS}
    assert list(shown.values()) == [1, 4, 8, 42, 2, 2, 1, 4]


def test_a_wrong_configuration_ends_the_server_with_our_sentence(models, tmp_path):
    config = {"method": "draft_model", "model": str(models / "draft"), "num_speculative_tokens": 4}
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({**config, "judge": {"model": str(models)}}))
    process, _ = serve(models, str(path), tmp_path / "log")
    assert process.wait(START_SECONDS) != 0
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert last.endswith(f"judge.model: no judge head in {models}: it holds no model.safetensors.")
