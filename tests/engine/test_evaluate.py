"""`vllm-judge evaluate` on a real engine, served and in process, against answers that were asked for by hand.

It would catch: a dial that does not reach the engine on either way, answers that are scored in the wrong order,
counters that are read too early, and two ways to the same engine that disagree.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import tiny
from environments import CPU, KV_CACHE_BYTES, RUNNERS
from test_server import client, complete, judge_json  # noqa: F401  a server of this module's own

N = 12
LENGTH = 24
TASK = f"""
task: echoes
dataset_path: json
dataset_kwargs: {{data_files: {{test: echoes.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: {LENGTH}}}
filter_list:
  - name: words
    filter:
      - {{function: regex, regex_pattern: '(\\S.*)'}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def answers(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bool]]:  # noqa: F811
    """A folder with a task whose right answers are the target's own; and whether the judge leaves each as it is."""
    folder, same, lines = tmp_path_factory.mktemp("tasks"), [], []
    for tokens in tiny.prompts(N, length=12, seed=11):
        prompt = " ".join(f"w{token}" for token in tokens)
        strict, judged = (
            complete(client, prompt=prompt, max_tokens=LENGTH, vllm_xargs={"judge": dial}).json()["choices"][0]["text"]
            for dial in ("false", "true")
        )
        same.append(strict == judged)
        lines.append(json.dumps({"question": prompt, "answer": strict.strip()}) + "\n")
    (folder / "echoes.jsonl").write_text("".join(lines))
    (folder / "echoes.yaml").write_text(TASK)
    return folder, same


def evaluate(folder: Path, *options: str) -> dict[str, dict[str, dict[str, float]]]:
    """Scores and speeds of the runs, by their names."""
    output = folder / ("served" if "--url" in options else "offline")
    command = [str(Path(sys.executable).with_name("vllm-judge")), "evaluate", "echoes", "--tasks-folder", str(folder)]
    done = subprocess.run(
        [*command, "-o", str(output), *options],
        env={**os.environ, **CPU, **RUNNERS["v1"], "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((output / "evaluate.json").read_text())
    assert len((output / "samples.jsonl").read_text().splitlines()) == 2 * N
    return {"scores": {one["arm"]: one for one in report["scores"]}, "speeds": report["speeds"]}


@pytest.mark.parametrize("way", ["served", "in process"])
def test_both_ways_score_what_the_engine_answers_and_count_it(way, answers, client, models, judge_json):  # noqa: F811
    folder, same = answers
    assert 0 < sum(same) < N, "the judge must change some answers and leave some"
    if way == "served":
        found = evaluate(folder, "--url", str(client.base_url))
    else:
        options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256}
        options["kv_cache_memory_bytes"] = KV_CACHE_BYTES
        engine = ["--model", str(models / "target"), "--speculative-config", str(judge_json)]
        found = evaluate(folder, *engine, "--engine-options", json.dumps(options))
    strict, judge = found["scores"]["strict"], found["scores"]["judge"]
    assert (strict["n"], strict["score"]["value"]) == (N, 1.0)
    assert judge["score"]["value"] == pytest.approx(sum(same) / N)
    assert judge["minus_strict"]["value"] == pytest.approx(sum(same) / N - 1)
    speeds = found["speeds"]
    assert speeds["strict"]["judge_only_share"] == 0 < speeds["judge"]["judge_only_share"] < 1
    assert speeds["judge"]["accepted_per_cycle"] > speeds["strict"]["accepted_per_cycle"]
    assert all(run["tokens"] == N * LENGTH and run["ms_per_token"] > 0 for run in speeds.values())
