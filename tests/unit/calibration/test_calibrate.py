"""The threshold that keeps a promise, with a tiny chat model and a noisy copy of it as its draft.

It would catch: a promise called kept for want of questions, a slower threshold chosen, train questions asked, a head
whose weights change or that loses its provenance, answers given again by a second run.
"""

from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from vllm_judge.calibration.calibrate import choose_threshold
from vllm_judge.cli import app
from vllm_judge.comparison.points import Point
from vllm_judge.config import read_speculative_config
from vllm_judge.decoding.questions import held_out_questions
from vllm_judge.errors import PromiseError
from vllm_judge.head import JudgeHead
from vllm_judge.measuring.statistics import Estimate


def point(threshold: float | None, minus_strict: tuple[float, float, float], speed: float, n: int = 1000) -> Point:
    setting = {} if threshold is None else {"threshold": threshold}
    accuracy, speeds = Estimate(0.9, 0.85, 0.95), Estimate(speed, speed, speed)
    return Point("judge", setting, n, accuracy, Estimate(*minus_strict), 1.0, speeds, 1.0, 0.0, [])


def test_the_fastest_threshold_that_keeps_the_promise_is_chosen():
    strict = point(None, (0, 0, 0), 2.0)
    fast = point(0.3, (-0.01, -0.03, 0.01), 9.0)
    middle = point(0.5, (-0.001, -0.009, 0.007), 7.0)
    slow = point(0.9, (0.001, -0.004, 0.006), 4.0)
    assert choose_threshold([strict, fast, middle, slow], 1.0) is middle
    assert choose_threshold([strict, fast, middle, slow], 3.0) is fast
    # Slow: 0.5 points down to the interval's end, 0.2 points of room: (0.5 / 0.2)^2 as many questions.
    nearest = r"nearest comes 0.9, at \+0.1 \[-0.4, \+0.6\]: about 6,250 questions would show it"
    with pytest.raises(PromiseError, match=f"on 1000 questions no threshold can be shown to keep .*{nearest}"):
        choose_threshold([strict, fast, middle, slow], 0.1)
    with pytest.raises(PromiseError, match=r"nearest comes 0.5, .*: no number of questions would show it at that"):
        choose_threshold([strict, fast, middle], 0.05)


def test_few_questions_without_a_difference_prove_nothing():
    strict = point(None, (0, 0, 0), 2.0)
    with pytest.raises(
        PromiseError, match=r"nearest comes 0.5, at \+0.0 \[-1.5, \+0.0\]: about 300 questions would show it"
    ):
        choose_threshold([strict, point(0.5, (0, 0, 0), 9.0, n=200)], 1.0)
    assert choose_threshold([strict, point(0.5, (0, 0, 0), 9.0, n=300)], 1.0).setting == {"threshold": 0.5}


def calibrate(world: Path, max_accuracy_drop: float, *more: object) -> tuple[int, str]:
    command = ["calibrate", world / "questions.jsonl", "--head", world / "head", "-o", world / "answers"]
    command += [
        "--source",
        "transformers",
        "--target",
        world / "target",
        "--draft",
        world / "draft",
        "--max-accuracy-drop",
        max_accuracy_drop,
    ]
    command += ["--threshold", 0.7, "--threshold", 0.3, "--num-speculative-tokens", 4, "--max-new-tokens", 12, *more]
    result = CliRunner().invoke(app, [str(part) for part in command])
    return result.exit_code, result.output


def test_the_threshold_goes_into_the_head_with_the_evidence_for_it(world, monkeypatch):
    before = (world / "head" / "config.json").read_bytes()
    code, said = calibrate(world, 1.0)
    assert code == 3 and "on 5 questions no threshold can be shown to keep accuracy within 1 points" in said
    assert (world / "head" / "config.json").read_bytes() == before
    assert not (world / "head" / "judge.json").exists(), "nothing is served that keeps no promise"

    monkeypatch.setattr("vllm_judge.decoding.pair.Pair.decode", None)  # every answer is there already
    code, said = calibrate(world, 100.0)
    assert code == 0, said
    head = JudgeHead.from_pretrained(world / "head")
    assert head.threshold == 0.3, "at 0.3 the head accepts all, at 0.7 nothing"
    assert (head.target_model, head.provenance["method"]) == ("target", "none")
    assert not head.weight.any()
    calibration = head.provenance["calibration"]
    assert [one["setting"] for one in calibration["points"]] == [{}, {"threshold": 0.3}, {"threshold": 0.7}]
    assert (
        calibration["points"][1]["tokens_per_forward"]["value"]
        > calibration["points"][2]["tokens_per_forward"]["value"]
    )
    assert (world / "head" / "calibration.png").stat().st_size > 10_000

    config, section = read_speculative_config(world / "head")
    assert config == {"method": "draft_model", "model": str(world / "draft"), "num_speculative_tokens": 4}
    assert section is not None and (section.model, section.threshold) == (str(world / "head"), None)
    card = (world / "head" / "README.md").read_text()
    assert "vllm serve target --speculative-config <this folder or repository>" in card
    assert calibration["promise"] in card


def test_heads_are_measured_side_by_side_and_each_gets_its_own_threshold(world):
    for name, bias in (("sure", 3.0), ("never", -3.0)):
        other = JudgeHead(64, target_model="target", provenance={"method": "none"}).requires_grad_(False)
        other.bias.fill_(bias)
        other.save_pretrained(world / name)
    code, said = calibrate(world, 100.0, "--head", world / "sure", "--head", world / "never")
    assert code == 0, said
    heads = [JudgeHead.from_pretrained(world / name) for name in ("head", "sure", "never")]
    assert [head.threshold for head in heads] == [0.3, 0.3, 0.3]
    calibrations = [head.provenance["calibration"] for head in heads]
    at_the_higher = [one["points"][2]["tokens_per_forward"]["value"] for one in calibrations]
    assert at_the_higher[1] > at_the_higher[0], "only the sure head accepts anything at 0.7"
    shared = [{**one["points"][0], "on_front": None} for one in calibrations]
    assert shared[0] == shared[1]
    assert all(any(point["on_front"] for point in one["points"]) for one in calibrations), "a front of its own"


def test_a_copy_is_calibrated_and_the_head_stays_as_it_was(world):
    before = {file.name: file.read_bytes() for file in (world / "head").iterdir()}
    assert calibrate(world, 100.0, "--into", world / "copy")[0] == 0
    assert {file.name: file.read_bytes() for file in (world / "head").iterdir()} == before
    config, section = read_speculative_config(world / "copy")
    assert config["num_speculative_tokens"] == 4 and section is not None and section.model == str(world / "copy")
    assert JudgeHead.from_pretrained(world / "copy").threshold == 0.3
    code, said = calibrate(world, 100.0, "--into", world / "copy", "--into", world / "copy")
    assert code == 1 and "give one --into for each --head: found 2 and 1" in said


def test_held_out_questions_are_asked_as_the_server_would_and_checked(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "target")
    asked = held_out_questions([world / "questions.jsonl"] * 2, tokenizer)
    assert len(asked) == 5
    assert tokenizer.decode(asked[0].prompt_ids) == "<user>What is 1 + 1?<assistant>"
    assert asked[0].is_right("The answer is 2.") and not asked[0].is_right("The answer is 3.")
