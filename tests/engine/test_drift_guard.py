"""A head that carries the scores of its calibration, on that traffic and on another.

The calibration is of the questions whose answers score lowest, and the other traffic of those that score highest. It
would catch: a window that other requests than the judged ones of the engine's own settings fill, a drift that is not
said, a stop that leaves requests judged that are under way, and one that changes what strict verification gives.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from environments import NUM_DRAFTS
from transformers import LlamaForCausalLM
from verified_text import VerifiedText, verified

from vllm_judge import JudgeHead
from vllm_judge.drift import FALSE_ALARMS, WITHIN, CalibratedScores, answers_for
from vllm_judge.head import fingerprint
from vllm_judge.kernels.verdicts import NUM_BUCKETS, decided

LENGTH, LONG = 12, 220
GREEDY = {"temperature": 0.0, "max_tokens": LENGTH}
OFF = {"extra_args": {"judge": False}}
WINDOW = answers_for(0.0, WITHIN, FALSE_ALARMS)
ALIKE = 13  # questions of a kind; a window asks each nine times
assert WINDOW == 9 * ALIKE


@pytest.fixture(scope="module")
def oracle(models: Path) -> Callable[[list[int]], VerifiedText]:
    target, draft = (LlamaForCausalLM.from_pretrained(models / name).eval() for name in ("target", "draft"))
    head = JudgeHead.from_pretrained(str(models / "random"))
    protected = torch.isin(torch.arange(tiny.VOCAB), torch.tensor([0, tiny.EOS, tiny.SPECIAL]))

    @functools.cache
    def text(*prompt: int) -> VerifiedText:
        return verified(target, draft, head, list(prompt), LENGTH, NUM_DRAFTS, protected, ends=[tiny.EOS])

    return lambda prompt: text(*prompt)


def probabilities(text: VerifiedText) -> list[int]:
    """The buckets of an answer's judged drafts."""
    buckets = [bucket for step in text.steps for bucket in decided(step.verdicts.tolist())]
    return np.bincount(buckets, minlength=NUM_BUCKETS).tolist()


@pytest.fixture(scope="module")
def kinds(oracle) -> tuple[list[list[int]], list[list[int]]]:
    """Questions whose answers' judged drafts score low, and high."""
    counts = {tuple(prompt): np.array(probabilities(oracle(prompt))) for prompt in tiny.prompts(60)}
    mean = {prompt: found @ np.arange(NUM_BUCKETS) / found.sum() for prompt, found in counts.items() if found.sum()}
    ordered = [list(prompt) for prompt in sorted(mean, key=mean.__getitem__)]
    return ordered[:ALIKE], ordered[-ALIKE:]


@pytest.fixture(scope="module", autouse=True)
def calibrated(models, oracle, kinds) -> CalibratedScores:
    """The head `random` with the scores of low questions, in a folder `guarded`."""
    counts = [probabilities(oracle(prompt)) for prompt in kinds[0]]
    scores = CalibratedScores(
        head=fingerprint(JudgeHead.from_pretrained(models / "random")),
        threshold=0.5,
        answers=10_000,
        shares=np.mean([np.array(one) / sum(one) for one in counts], axis=0).tolist(),
        variance=0.0,
    )
    folder = Path(shutil.copytree(models / "random", models / "guarded", dirs_exist_ok=True))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scores": scores.model_dump()}))
    return scores


def windows(counts: dict[str, float]) -> dict[str, float]:
    """How many were counted, by mode and whether they had drifted."""
    name = "judge_score_windows "
    return {key.removeprefix(name): count for key, count in counts.items() if key.startswith(name) and count}


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


@pytest.mark.every_vllm
def test_where_scores_leave_the_calibrations_judging_stops_for_requests_under_way_too(engines, runner, kinds, oracle):
    low, high = kinds
    section = {"on_drift": "strict"}
    engine = engines(runner, "guarded", section=section, asynchronous=True, max_num_seqs=32)
    answers, counts = engine.counted(low * 9 + low, GREEDY)
    assert tokens(answers) == [oracle(prompt).tokens for prompt in low] * 10
    assert windows(counts) == {"judge no": 1} and counts["judge_stopped"] == 0
    assert counts["judge_drift judge"] < WITHIN / 2, "not 0: the window's answers are those that end first"

    long = {**GREEDY, "max_tokens": LONG, "ignore_eos": True}
    [under_way, *_] = engine.generate([high[0], *high * 9], [long, *[GREEDY] * WINDOW], statistics=True)
    end = under_way["statistics"]["judge_only_positions"][-1] + 1
    assert LENGTH < end < LONG / 2
    [strictly] = engine.generate([high[0] + under_way["tokens"][:end]], {**long, **OFF, "max_tokens": LONG - end})
    assert under_way["tokens"][end:] == strictly["tokens"]

    found = engine.metrics()
    assert windows(found) == {"judge no": 1, "judge yes": 1}
    assert found["judge_stopped"] == 1 and found["judge_drift judge"] > 0.3 > found["judge_drift_limit"]
    assert engine.log.read_text().count("judging stops, every request is decoded strictly from now on") == 1
    answers, counts = engine.counted(low + high, GREEDY)
    assert tokens(answers) == tokens(engine.generate(low + high, {**GREEDY, **OFF}))
    assert tokens(answers) != [oracle(prompt).tokens for prompt in low + high]
    assert not any(count for name, count in counts.items() if "judge" in name)


@pytest.mark.parametrize("runner", ["v1"], scope="session")
def test_a_drift_is_said_once_and_taken_back_and_other_requests_do_not_count(engines, runner, kinds, oracle):
    low, high = kinds
    engine = engines(runner, "guarded", max_num_seqs=32)
    others = [{**GREEDY, "extra_args": {"judge_threshold": 0.6}}, {**GREEDY, "extra_args": {"judge_scope": "thinking"}}]
    for params in others:
        assert windows(engine.counted(high * 10, params)[1]) == {}
    _, counts = engine.counted(high * 10, {**GREEDY, "extra_args": {"judge_mode": "shadow"}})
    assert windows(counts) == {"shadow yes": 1} and counts["judge_drift shadow"] > 0.3
    said = engine.log.read_text
    assert "from those of the calibration" not in said(), "shadow says nothing"
    for _ in range(2):
        assert windows(engine.counted(high * 10, GREEDY)[1]) == {"judge yes": 1}
    assert said().count("the head's promise may not hold for this traffic") == 1
    engine.generate(low * 20, GREEDY)  # after what is left of the last
    assert said().count("they are back where they were") == 1
    answers = engine.generate(low + high, GREEDY)
    assert tokens(answers) == [oracle(prompt).tokens for prompt in low + high], "judged as ever"
    assert engine.metrics()["judge_stopped"] == 0
    [info] = [name for name in engine.metrics() if name.startswith("judge_info")]
    assert info.endswith(" 0.5 everywhere judge 1.0 warn")
