"""`vllm serve TARGET --speculative-config judge.json`, driven over HTTP as a client would."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from server import START_SECONDS, counted, serve, serving


@pytest.fixture(scope="module")
def judge_json(models: Path) -> Path:
    path = models / "judge.json"
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 4, "judge": {"model": "random"}}
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def client(models: Path, judge_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(models, str(judge_json), tmp_path_factory.mktemp("server") / "log") as http:
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


def test_a_wrong_configuration_ends_the_server_with_our_sentence(models, tmp_path):
    config = {"method": "draft_model", "model": str(models / "draft"), "num_speculative_tokens": 4}
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({**config, "judge": {"model": str(models)}}))
    process, _ = serve(models, str(path), tmp_path / "log")
    assert process.wait(START_SECONDS) != 0
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert last.endswith(f"judge.model: no judge head in {models}: it holds no model.safetensors.")
