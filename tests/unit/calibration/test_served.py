"""Calibration over HTTP: what is refused before any work, and what is kept where a server dies.

The server here only says what `vllm serve` says; tests/engine/test_calibrate_in_vllm.py asks a real one. It would
catch: a strict server, or one with another head or number of drafts, measured in silence; answers lost with the server.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from calibration_world import make_world
from fastapi import FastAPI, Request
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.drift import NUM_BUCKETS
from vllm_judge.head import JudgeHead, fingerprint


class Server:
    """Serves `model`, drafts 4 tokens a cycle, accepts 1 of them in one cycle more than its judge accepts alone.

    Attributes:
        counted: what it says of a request's drafts; None: nothing. judged: and what besides of a judged one's.
        dies_after: completions after which it is gone.
    """

    def __init__(self, model: Path, head: Path):
        self.model, self.dies_after = model, 10_000
        figures = {"acceptance_histogram": [1, 1, 0, 0, 0], "num_spec_tokens": 4, "num_judge_only_tokens": 1}
        fingerprint_ = fingerprint(JudgeHead.from_pretrained(head))
        self.counted: dict[str, Any] | None = {**figures, "num_steps_without_drafts": 2, "judge_head": fingerprint_}
        self.judged: dict[str, Any] = {}
        self.dials: list[dict[str, Any]] = []
        served = FastAPI()
        served.get("/v1/models")(self.models)
        served.post("/v1/completions")(self.complete)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.server = uvicorn.Server(uvicorn.Config(served, port=port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)

    async def models(self) -> Any:
        return {"object": "list", "data": [{"id": "tiny", "root": str(self.model), "max_model_len": 256}]}

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        assert (body["model"], body["temperature"], body["repetition_penalty"]) == ("tiny", 0.0, 1.0)
        self.dials.append(body["vllm_xargs"])
        if len(self.dials) >= self.dies_after:
            self.server.should_exit = self.server.force_exit = True
            await asyncio.sleep(60)
        more = self.judged if "judge_threshold" in body["vllm_xargs"] else {}
        counted = {} if self.counted is None else {"metrics": {"speculative_decoding": self.counted | more}}
        choice = {"index": 0, "text": "", "finish_reason": "length", "token_ids": [20, 21, 22]}
        return {"id": "1", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice], **counted}


@contextlib.contextmanager
def serving(world: Path) -> Iterator[Server]:
    started = Server(world / "target", world / "head")
    started.thread.start()
    while not started.server.started:
        time.sleep(0.01)
    yield started
    started.server.should_exit = True
    started.thread.join()


@pytest.fixture
def server(world: Path) -> Iterator[Server]:
    with serving(world) as started:
        yield started


def calibrate(world: Path, url: str, *more: object) -> tuple[int, str]:
    command = ["calibrate", world / "questions.jsonl", "--head", world / "head", "-o", world / "answers"]
    command += ["--target", world / "target", "--draft", world / "draft", "--max-accuracy-drop", 100.0, "--url", url]
    command += ["--threshold", 0.5, "--num-speculative-tokens", 4, "--max-new-tokens", 12, *more]
    result = CliRunner().invoke(app, [str(part) for part in command])
    return result.exit_code, result.output.strip().splitlines()[-1]


def test_answers_and_figures_are_the_servers_and_a_second_run_asks_nothing(world, server):
    code, said = calibrate(world, server.url)
    assert code == 0, said
    check, *dials = server.dials
    assert check == {}
    assert sorted(map(str, dials)) == ["{'judge': False}"] * 5 + ["{'judge_threshold': 0.5, 'judge_mode': 'judge'}"] * 5
    [strict, judged] = JudgeHead.from_pretrained(world / "head").provenance["calibration"]["points"]
    # Of each question: 3 tokens, one pass of the prompt, two verifications, two steps without drafts.
    assert judged["tokens_per_forward"]["value"] == strict["tokens_per_forward"]["value"] == pytest.approx(3 / 5)
    assert judged["accepted_counts"] == [15, 5, 0, 0, 0] and judged["judge_only_share"] == 1.0
    assert calibrate(world, "http://127.0.0.1:1")[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "does not count a request's drafts: start it with --per-request-spec-decode-metrics summary."),
        ({"judge_head": None}, "has no judge, or one that has stopped judging: start it with a section judge in its"),
        ({"judge_head": "0" * 16}, "judges with another head than the one in"),
        ({"num_spec_tokens": 7}, "drafts 7 tokens per cycle, and 4 are to be measured: give --num-speculative-tokens"),
    ],
)
def test_a_server_that_would_measure_something_else_is_refused(world, server, change, message):
    server.counted = None if change is None else {**server.counted, **change}
    code, said = calibrate(world, server.url)
    assert code == 1 and message in said
    assert len(server.dials) == 1


def test_what_a_server_answers_that_has_stopped_judging_meanwhile_is_not_kept(world, server):
    server.judged = {"judge_head": None}
    code, said = calibrate(world, server.url)
    assert code == 1 and "left 5 requests without an answer, since it has stopped judging" in said
    server.judged, server.dials = {}, []
    assert calibrate(world, server.url)[0] == 0
    assert [list(dial) for dial in server.dials] == [[]] + [["judge_threshold", "judge_mode"]] * 5


def test_another_model_too_long_answers_and_no_server_are_refused(world, server):
    server.model = world / "draft"
    code, said = calibrate(world, server.url)
    assert code == 1 and f"serves tiny ({world / 'draft'}), and --target is {world / 'target'}" in said
    server.model = world / "target"
    code, said = calibrate(world, server.url, "--max-new-tokens", 250, "-o", world / "long")
    assert code == 1 and "max_model_len is 256: lower --max-new-tokens, or raise it" in said
    code, said = calibrate(world, "http://127.0.0.1:1")
    assert code == 1 and said == (
        "vllm-judge: no vLLM server that can be measured at http://127.0.0.1:1: it cannot be reached."
    )


def test_a_server_that_dies_loses_nothing(world, server):
    server.dies_after = 5
    code, said = calibrate(world, server.url, "--concurrency", 1)
    assert code == 1 and said.startswith(f"vllm-judge: {server.url}") and "cannot be reached; every answer" in said
    kept = sum(len(file.read_text().splitlines()) for file in (world / "answers" / "answers").iterdir())
    assert kept >= 3

    with serving(world) as another:
        code, said = calibrate(world, another.url)
    assert code == 0, said
    assert len(another.dials) == 1 + 10 - kept


def test_the_scores_at_the_chosen_threshold_go_into_the_head(tmp_path):
    world = make_world(tmp_path, questions=80)
    with serving(world) as server:
        assert calibrate(world, server.url)[0] == 0
        assert JudgeHead.from_pretrained(world / "head").scores is None, "an older server counts none"
        server.judged["judge_probabilities"] = [1] + [0] * (NUM_BUCKETS - 2) + [3]
        code, said = calibrate(world, server.url, "-o", world / "anew")
    assert code == 0 and said.endswith("the drift guard compares windows of 117 answers with these 40; limit 0.24.")
    head = JudgeHead.from_pretrained(world / "head")
    scores = head.scores
    assert scores is not None and (scores.head, scores.threshold) == (fingerprint(head), head.threshold) != ("", 0)
    assert (scores.answers, scores.shares[0], scores.shares[-1], scores.variance) == (40, 0.25, 0.75, 0.0)
