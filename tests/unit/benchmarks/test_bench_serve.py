"""What scripts/bench_serve.py makes of arguments and figures; the servers themselves it leaves to vLLM.

It would catch: a strict server that has a judge, a ratio the wrong way up, accuracy of other prompts' answers, and a
file of prompts that runs out, or whose missing answers count as wrong ones.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_judge.demo import trio
from vllm_judge.demo.world import problems
from vllm_judge.errors import JudgeConfigError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.court import Message
from vllm_judge.tokencourt.questions import Question

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
from bench_serve import level, ratios, speculative_configs
from serve_prompts import PromptError, demo_prompts, quality, read_prompts


def test_the_three_servers_differ_in_speculation_and_judge_only():
    configs = speculative_configs(trio.JUDGE_JSON)
    assert configs["plain"] is None and configs["judge"] == str(trio.JUDGE_JSON)
    strict = json.loads(str(configs["strict"]))
    assert "judge" not in strict and Path(strict["model"]).is_dir()


def test_a_speculative_config_without_a_judge_is_refused(tmp_path):
    path = tmp_path / "strict.json"
    path.write_text(json.dumps({"method": "ngram", "num_speculative_tokens": 4}))
    with pytest.raises(JudgeConfigError, match="has no section judge"):
        speculative_configs(path)


def found(**figures: float) -> dict[str, Any]:
    """As `vllm bench serve` writes it."""
    latencies = {f"{at}_{name}_ms": 10.0 for at in ("p50", "p99") for name in ("ttft", "tpot")}
    result = {"completed": 4, "output_throughput": 100.0, "request_throughput": 2.0, "request_goodput": None}
    return {**latencies, **result, **figures}


def test_ratios_are_above_one_where_the_judge_is_faster():
    before = {"cycles": 10, "accepted": 10, "judge_only": 10}
    after = {"cycles": 20, "accepted": 110, "judge_only": 35}
    levels = {
        "plain": level(found(request_goodput=1.0), before, before),
        "strict": level(found(output_throughput=200.0, request_goodput=0.0), before, after),
        "judge": level(found(output_throughput=300.0, p50_tpot_ms=5.0, request_goodput=1.5), before, after),
    }
    assert (levels["judge"]["accepted_per_cycle"], levels["judge"]["judge_only_share"]) == (10.0, 0.25)
    assert levels["plain"]["accepted_per_cycle"] == 0.0
    [one] = ratios([{"mode": mode, "concurrency": 8, **figures} for mode, figures in levels.items()])
    assert one["concurrency"] == 8
    assert one["tokens/s, judge / plain"] == 3.0 and one["tokens/s, judge / strict"] == 1.5
    assert one["time per output token, plain / judge"] == 2.0 and one["time to first token, plain / judge"] == 1.0
    assert one["goodput, judge / plain"] == 1.5 and "goodput, judge / strict" not in one


def test_quality_pairs_the_answers_of_all_servers():
    prompts = demo_prompts(4, seed=0)
    right = [f" The answer is {problem.answer}." for problem in problems(4, 0, "test")]
    wrong = [" The answer is 0.", *right[1:]]
    checked = quality(prompts, {"plain": right, "judge": wrong})
    assert checked is not None
    assert checked["plain"]["accuracy"]["value"] == 1.0 and checked["plain"]["minus_plain"]["value"] == 0.0
    assert checked["judge"]["accuracy"]["value"] == 0.75 and checked["judge"]["minus_plain"]["value"] == -0.25


def question(content: str, reference: str | None = None, part: Split = Split.held_out) -> Question:
    asked = [Message(role="user", content=content)]
    return Question(id=content, messages=asked, split=part, reference=reference, check=reference and "number")


def test_questions_of_ones_own_are_checked_where_they_have_answers(tmp_path):
    path = tmp_path / "q.jsonl"
    records.write(path, [question("1 + 1?", "2", Split.train), question("2 + 2?", "4"), question("Hi.")])
    [one] = read_prompts(path, 1)
    assert one.text == "2 + 2?"
    assert quality([one], {"plain": ["It is 4."]})["plain"]["accuracy"]["value"] == 1.0
    assert quality(read_prompts(path, 2), {"plain": ["It is 4.", "Ho."]}) is None


def test_questions_that_cannot_be_used_are_one_sentence(tmp_path):
    path = tmp_path / "q.jsonl"
    records.write(path, [question("a")])
    with pytest.raises(PromptError, match="holds 1 held-out questions, and 2 are needed"):
        read_prompts(path, 2)
    more = Message(role="assistant", content="b")
    records.write(path, [question("a").model_copy(update={"messages": [*question("a").messages, more]})])
    with pytest.raises(PromptError, match="'a' is a conversation"):
        read_prompts(path, 1)
