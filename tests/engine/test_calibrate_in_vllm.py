"""Calibration and replay in a real vLLM, in this process and served, against the reference decoder in transformers.

It would catch: a threshold that does not reach its request, answers that other requests or another head's engine
changed, a cycle that is counted twice or not at all (the last one, which the text's end cuts; steps without drafts),
judge-only tokens of a neighbour, hidden states or logits of another row.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
import torch
from calibration_world import make_world
from environments import CPU, KV_CACHE_BYTES, RUNNERS
from server import serving
from transformers import AutoTokenizer

from vllm_judge.config import read_speculative_config
from vllm_judge.head import JudgeHead

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, **CPU, **RUNNERS["v1"]}
ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES}
ANSWER_TOKENS, DRAFTS = 40, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve held-out questions; a head that reads states and evidence, and one that reads states."""
    root = make_world(tmp_path_factory.mktemp("world"), questions=24)
    for name, seed in (("head", 2), ("plain", 5)):
        torch.manual_seed(seed)
        head = JudgeHead(64, use_evidence=name == "head", target_model="target", provenance={"method": "none"})
        with torch.no_grad():
            head.weight.copy_(torch.randn(64) * 0.1)
        head.requires_grad_(False).save_pretrained(root / name)
    return root


def vllm_judge(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (BIN / "vllm-judge", *arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


def calibrate(world: Path, output: Path, *more: object) -> dict[str, dict[str, Any]]:
    """The kept answers, by file and question; without the judge's probabilities, which the reference does not count."""
    command = ["calibrate", world / "questions.jsonl", "--target", world / "target", "-o", output]
    command += ["--max-accuracy-drop", 100, "--max-new-tokens", ANSWER_TOKENS, "--num-speculative-tokens", DRAFTS]
    done = vllm_judge(*command, "--threshold", 0.2, "--threshold", 0.5, "--threshold", 0.8, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((output / "answers").iterdir()):
        for line in file.read_text().splitlines():
            answer = json.loads(line)
            probabilities = answer.pop("probabilities", None)
            # A draft that only the judge accepted is one that it decided on, and there are strict answers without any.
            assert probabilities is None or answer["judge_only"] <= sum(probabilities)
            assert probabilities is None or "strict" not in file.name or not sum(probabilities)
            found.setdefault(file.name, {})[answer["question"]] = {**answer, "cycles": sorted(answer["cycles"])}
    return found


@pytest.fixture(scope="module")
def reference(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    heads = ["--head", world / "head", "--head", world / "plain"]
    output = tmp_path_factory.mktemp("reference")
    found = calibrate(world, output, "--draft", world / "draft", "--source", "transformers", *heads)
    judge_only = [sum(one["judge_only"] for one in answers.values()) for answers in found.values()]
    assert len(found) == 7 and judge_only.count(0) == 1 and len(set(judge_only)) > 3, "the heads must matter"
    return found


def test_an_engine_a_head_gives_the_reference_decoders_texts_and_counts(world, reference, tmp_path):
    heads = ["--head", world / "head", "--head", world / "plain"]
    assert calibrate(world, tmp_path, "--draft", world / "draft", "--engine", json.dumps(ENGINE), *heads) == reference
    provenance = JudgeHead.from_pretrained(world / "plain").provenance["calibration"]
    assert provenance["source"].startswith("vllm.LLM") and provenance["engine"] == ENGINE


def test_any_drafter_is_measured_and_written_and_every_pass_is_counted(world, reference, tmp_path):
    drafter = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    options = ["--head", world / "head", "--engine", json.dumps(ENGINE), "--num-speculative-tokens", 3]
    found = calibrate(world, tmp_path, "--speculative-config", json.dumps(drafter), *options)
    assert {key: one["text"] for key, one in found["strict.jsonl"].items()} == {
        key: one["text"] for key, one in reference["strict.jsonl"].items()
    }, "strict verification gives the target's text, whatever drafts"
    accepted: Counter[int] = Counter()
    for answers in found.values():
        for one in answers.values():
            accepted.update(one["cycles"])
            # One token of the prompt's pass, one more than it accepts of each cycle; the end cuts the last one short.
            beyond = 1 + sum(one["cycles"]) + len(one["cycles"]) - one["tokens"]
            assert 0 <= beyond <= max(one["cycles"], default=0)
    assert accepted[0] and accepted.total() > accepted[0]
    assert read_speculative_config(world / "head")[0] == drafter


@pytest.fixture(scope="module")
def client(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = {"method": "draft_model", "model": str(world / "draft"), "num_speculative_tokens": DRAFTS}
    config["judge"] = {"model": str(world / "plain")}
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(world, json.dumps(config), log, "--per-request-spec-decode-metrics", "summary") as http:
        yield http


def test_a_server_gives_them_too(client, world, reference, tmp_path):
    options = ["--draft", world / "draft", "--url", client.base_url]
    found = calibrate(world, tmp_path / "plain", *options, "--head", world / "plain")
    assert len(found) == 4 and found == {name: reference[name] for name in found}
    command = ["calibrate", world / "questions.jsonl", "--target", world / "target", "-o", tmp_path / "head", *options]
    refused = vllm_judge(*command, "--num-speculative-tokens", DRAFTS, "--max-new-tokens", 8, "--head", world / "head")
    assert refused.returncode == 1
    assert f"judges with another head than the one in {world / 'head'}: start it anew." in refused.stderr


def test_replay_in_vllm_gives_the_verdicts_of_transformers(world, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(world / "target")
    texts = [tokenizer.decode(tiny.prompts(1, 30 + number, seed=number)[0]) for number in range(5)]
    lines = [{"prompt": f"What is {number}?", "text": text} for number, text in enumerate(texts)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {}
    engine = json.dumps({name: value for name, value in ENGINE.items() if name != "dtype"})
    for source, more in {"vllm": ["--engine", engine], "transformers": []}.items():
        command = ["replay", path, "--target", world / "target", "--head", world / "head", "--source", source]
        done = vllm_judge(*command, "--threshold", 0.4, "--dtype", "float32", "-o", tmp_path / source, *more)
        assert done.returncode == 0, done.stderr[-3000:]
        found[source] = json.loads((tmp_path / source / "replay.json").read_text())["texts"]
    for served, expected in zip(found["vllm"], found["transformers"], strict=True):
        assert served["verdicts"] == expected["verdicts"] and served["preferred"] == expected["preferred"]
        for name in ("probability", "judge_probability", "preferred_probability"):
            assert served[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6)
    # Random texts: whether one of their tokens is the target's own choice is chance, and `preferred` says as much.
    assert {verdict for text in found["vllm"] for verdict in text["verdicts"]} >= {"judge only", "rejected"}
