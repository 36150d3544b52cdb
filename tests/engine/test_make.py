"""A recipe to a deployment, by real engines: the demo's pair, a few questions, one number of drafts.

It would catch: a step whose command no longer takes what `make` gives it, a head that is written without its promise,
an end that does not say what was measured.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from environments import CPU, KV_CACHE_BYTES, RUNNERS

from vllm_judge.config import read_speculative_config
from vllm_judge.demo import trio
from vllm_judge.head import JudgeHead

ENVIRONMENT = {**CPU, **RUNNERS["v1"]}
ENGINE = {"enforce_eager": True, "max_model_len": trio.MAX_MODEL_LEN, "kv_cache_memory_bytes": KV_CACHE_BYTES}
RECIPE = {
    "target": str(trio.TARGET),
    "draft": str(trio.FOLDER / "draft"),
    "questions": {"source": "demo", "limit": 100},
    "answers": {"by": "draft", "temperatures": [0, 1], "samples": 2},
    "labels": {"by": "function", "function": "vllm_judge.demo.court:label"},
    "max_tokens": trio.MAX_NEW_TOKENS,
    "dtype": "float32",
    "engine": {"target": ENGINE, "draft": ENGINE, "serve": ENGINE},
    "thresholds": 0.5,
    "num_speculative_tokens": 8,
    "strict_drafts": 2,
    "concurrency": 4,
}


def make(folder: Path, max_accuracy_drop: float) -> subprocess.CompletedProcess[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "max_accuracy_drop": max_accuracy_drop}))  # JSON is YAML
    command = [sys.executable, "-m", "vllm_judge.cli", "make", recipe, "-o", folder / "my-judge"]
    return subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True)


def test_a_recipe_becomes_a_deployment_if_its_promise_is_kept(tmp_path):
    output = tmp_path / "my-judge"
    refused = make(tmp_path, 1)
    assert refused.returncode == 3, refused.stderr
    assert "promise, 8 drafts: " in refused.stderr and "can be shown to keep accuracy within 1 points" in refused.stderr
    assert "nearest comes 0.5" in refused.stderr
    assert not output.exists()

    made = make(tmp_path, 60)
    assert made.returncode == 0, made.stderr
    assert "hidden states" not in made.stderr, "what the promise does not change is not made again"
    config, section = read_speculative_config(output)
    assert config == {"method": "draft_model", "model": RECIPE["draft"], "num_speculative_tokens": 8}
    assert section is not None and section.model == str(output)
    head = JudgeHead.from_pretrained(output)
    assert "at most 60 percentage points" in head.provenance["calibration"]["promise"]
    (level,) = head.provenance["speed"]["levels"]
    assert level["concurrency"] == 4 and level["strict"]["drafts"] in (2, 8) and min(level["judged"]["rounds"]) > 0
    assert "times the target alone" in made.stdout
    assert made.stdout.rstrip().endswith(f"vllm serve {trio.TARGET} --speculative-config {output}")

    again = make(tmp_path, 60)
    assert (again.returncode, again.stdout) == (0, made.stdout) and "[1 of" not in again.stderr
