"""`vllm serve TARGET --speculative-config judge.json`, driven over HTTP as a client would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from environments import CPU, RUNNERS

START_SECONDS = 240


def serve(models: Path, speculative_config: str, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(models / "target")]
    command += ["--speculative-config", speculative_config, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--served-model-name", "tiny"]
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            env={**os.environ, **CPU, **RUNNERS["v1"]},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, port


@pytest.fixture(scope="module")
def judge_json(models: Path) -> Path:
    path = models / "judge.json"
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 4, "judge": {"model": "random"}}
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def client(models: Path, judge_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("server") / "log"
    process, port = serve(models, str(judge_json), log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            deadline = time.monotonic() + START_SECONDS
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                try:
                    if http.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield http
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def complete(client: httpx.Client, **options: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": tiny.prompts(1)[0], "temperature": 0, "max_tokens": 24, **options}
    return client.post("/v1/completions", json=body)


def judge_only_tokens(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    name = "vllm:spec_decode_num_judge_only_tokens_total"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_a_request_is_judged_and_counted_and_its_dial_obeyed(client):
    texts = {}
    for name, dial in {"default": {}, "off": {"judge": "false"}, "strict": {"judge_threshold": 1}}.items():
        before = judge_only_tokens(client)
        texts[name] = complete(client, vllm_xargs=dial).json()["choices"][0]["text"]
        assert (judge_only_tokens(client) > before) == (name == "default")
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
