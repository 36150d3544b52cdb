"""The figures that demos and benchmarks print, from counts that are known."""

import pytest

from vllm_judge.benchmarks.offline import COUNTERS
from vllm_judge.demo.outcome import Outcome
from vllm_judge.demo.world import problems


def test_figures_are_ratios_of_the_counts():
    outcome = Outcome(
        (True, False, True, True), tokens=200, seconds=4.0, cycles=10, drafted=160, accepted=120, judge_only=30
    )
    assert outcome.figures() == {
        "n": 4,
        "tokens_per_s": 50.0,
        "problems_per_s": 1.0,
        "accepted_per_cycle": 12.0,
        "judge_only_share": 0.25,
        "accuracy": 0.75,
    }


def test_without_speculation_nothing_is_accepted():
    figures = Outcome((True,), tokens=10, seconds=1.0).figures()
    assert (figures["accepted_per_cycle"], figures["judge_only_share"]) == (0.0, 0.0)


def test_only_the_runs_own_counts_and_right_answers_count():
    asked = problems(2, 0, "test")
    before = {"cycles": 5, "drafted": 80, "accepted": 40, "judge_only": 10}
    after = {"cycles": 7, "drafted": 112, "accepted": 60, "judge_only": 18}
    assert before.keys() == COUNTERS.keys()
    texts = [f" The answer is {asked[0].answer}.", f" The answer is {asked[1].answer + 1}."]
    outcome = Outcome.of(asked, texts, 12, 2.0, before, after)
    assert outcome == Outcome((True, False), 12, 2.0, cycles=2, drafted=32, accepted=20, judge_only=8)


def test_texts_must_answer_all_problems():
    with pytest.raises(ValueError):
        Outcome.of(problems(2, 0, "test"), ["one text"], 1, 1.0, dict.fromkeys(COUNTERS, 0), dict.fromkeys(COUNTERS, 0))
