"""`vllm-judge evaluate --mt-bench` on a real served engine, against conversations that were held by hand.

It would catch: a second turn that does not hold the first one's answer, a dial that is lost on the way to a chat, a
judge model that is shown other answers than the engine gave, and speeds of other requests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import httpx
import pytest
import tiny
from chat_model import make_chat_model
from environments import CPU, KV_CACHE_BYTES, RUNNERS
from judge_server import JudgeServer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from vllm_server import MODEL, Server

LENGTH = 24
QUESTIONS = [{"question_id": n, "category": "counting", "turns": [f"Count to {n}.", "And back."]} for n in range(1, 5)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("pair")
    target = make_chat_model(folder / "target", max_position_embeddings=1024)
    make_chat_model(folder / "draft", max_position_embeddings=1024, num_hidden_layers=1)
    tiny.make_head(folder / "head", 0.0, scale=0.3)
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 4, "judge": {"model": "head"}}
    (folder / "judge.json").write_text(json.dumps(config))
    options = ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    with (
        mock.patch.dict(os.environ, {**CPU, **RUNNERS["v1"]}),
        Server(str(folder / "judge.json"), str(target), options) as running,
    ):
        yield running


def say(server: Server, dial: str, chat: list[dict[str, str]]) -> str:
    """The engine's next message."""
    body = {"model": MODEL, "messages": chat, "temperature": 0, "max_tokens": LENGTH, "vllm_xargs": {"judge": dial}}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()
    return reply["choices"][0]["message"]["content"]


def test_both_turns_are_the_engines_own_and_are_shown_to_the_judge_model(server, tmp_path):
    file = tmp_path / "question.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    command = [str(Path(sys.executable).with_name("vllm-judge")), "evaluate", "--mt-bench", str(file)]
    command += ["--url", server.url, "-o", str(tmp_path), "--max-tokens", str(LENGTH)]
    with JudgeServer() as judge:
        command += ["--judge-endpoint", judge.url, "--judge-model", "first"]
        done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    lines = [json.loads(line) for line in (tmp_path / "mt_bench_answers.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["strict", "judge"]
    differing = 0
    for question in QUESTIONS:
        for line, dial in zip(lines, ("false", "true"), strict=True):
            chat: list[dict[str, str]] = []
            for turn, answer in zip(question["turns"], line["answers"][str(question["question_id"])], strict=True):
                chat.append({"role": "user", "content": turn})
                assert answer == say(server, dial, chat)
                chat.append({"role": "assistant", "content": answer})
        strict, judged = (line["answers"][str(question["question_id"])] for line in lines)
        differing += (strict[:1] != judged[:1]) + (strict != judged)
        shown = [prompt for prompt in judge.prompts if f"Count to {question['question_id']}." in prompt]
        assert all(text in prompt for prompt in shown for text in (strict[0], judged[0]))

    report = json.loads((tmp_path / "mt_bench.json").read_text())
    whole = report["comparisons"][0]
    assert differing > 0 and len(judge.prompts) == 2 * differing
    assert (whole["n"], whole["ties"], whole["identical"]) == (8, 8, 8 - differing), "it always names the first"
    speeds = report["speeds"]
    assert speeds["strict"]["judge_only_share"] == 0 < speeds["judge"]["judge_only_share"]
    assert all(run["tokens"] <= 2 * len(QUESTIONS) * LENGTH for run in speeds.values())
