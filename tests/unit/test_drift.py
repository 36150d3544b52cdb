"""The bound of the drift guard, by simulation: false alarms, delay of detection, and what it does not depend on.

It would catch: scores of one answer taken for independent, a limit that forgets how few answers a calibration had, a
window that overlaps the last, an answer that weighs more because it is long, a bound that is so wide that it finds
nothing.
"""

import numpy as np
import pytest
from pydantic import ValidationError

from vllm_judge.drift import FALSE_ALARMS, MIN_ANSWERS, WITHIN, CalibratedScores, Window, answers_for, margin
from vllm_judge.errors import HeadError
from vllm_judge.head import JudgeHead
from vllm_judge.head_files import HeadConfig
from vllm_judge.kernels.verdicts import NUM_BUCKETS


def traffic(rng: np.random.Generator, answers: int, mean: float = 0.8, spread: float = 1.2) -> np.ndarray:
    """[answers, NUM_BUCKETS] counts: answers of 1 to 60 judged drafts, about a log-odds that each answer has of its
    own, so that the scores of one answer are alike."""
    lengths = rng.integers(1, 61, answers)
    centres = np.log(mean / (1 - mean)) + spread * rng.standard_normal(answers)
    owner = np.repeat(np.arange(answers), lengths)
    probabilities = 1 / (1 + np.exp(-(centres[owner] + 0.5 * rng.standard_normal(len(owner)))))
    counts = np.zeros((answers, NUM_BUCKETS), dtype=int)
    np.add.at(counts, (owner, np.minimum((probabilities * NUM_BUCKETS).astype(int), NUM_BUCKETS - 1)), 1)
    return counts


def calibrated(counts: np.ndarray) -> CalibratedScores:
    scores = CalibratedScores.measure("head", 0.5, counts.tolist())
    assert scores is not None
    return scores


def distances(scores: CalibratedScores, counts: np.ndarray) -> np.ndarray:
    """Of the full windows that these answers come to."""
    window = Window(scores)
    return np.array([found for answer in counts if (found := window.add(answer)) is not None])


@pytest.mark.parametrize("answers", [40, 300])
def test_windows_of_the_calibrations_traffic_stay_within_the_limit_though_scores_of_an_answer_are_alike(answers):
    rng = np.random.default_rng(answers)
    found, as_if_independent = [], []
    for _ in range(30):
        before = traffic(rng, answers)
        scores = calibrated(before)
        live = traffic(rng, 20 * scores.window)
        found += (distances(scores, live) / scores.limit).tolist()
        # Dvoretzky, Kiefer and Wolfowitz with Massart's constant, as if all scores were by themselves.
        known = np.cumsum(before.sum(axis=0)) / before.sum()
        for pooled in live.reshape(20, -1, NUM_BUCKETS).sum(axis=1):
            allowed = sum(np.sqrt(np.log(2 / 0.01) / (2 * drafts)) for drafts in (before.sum(), pooled.sum()))
            as_if_independent.append(np.abs(np.cumsum(pooled) / pooled.sum() - known).max() > allowed)
    assert len(found) == 600 and max(found) < 1
    assert np.mean(as_if_independent) > 0.3, "in this traffic the answers must matter"


def test_the_bound_holds_at_a_chance_that_can_be_seen_and_is_no_wider_than_four_times_what_happens():
    rng = np.random.default_rng(0)
    population = calibrated(traffic(rng, 100_000))
    for answers in (50, 200, 800):
        means = traffic(rng, 400 * answers)
        shares = (means / means.sum(axis=1, keepdims=True)).reshape(400, answers, NUM_BUCKETS).mean(axis=1)
        off = np.array([population.distance(one) for one in shares])
        bound = margin(population.variance, answers, 0.05)
        assert (off > bound).mean() <= 0.05
        assert bound < 4 * np.quantile(off, 0.95)


def test_what_is_further_off_than_the_limit_and_the_margin_is_found_by_the_first_full_window():
    rng = np.random.default_rng(1)
    before = traffic(rng, 300)
    scores = calibrated(before)
    drifted = traffic(rng, 100 * scores.window, mean=0.55)
    truly = scores.distance((drifted / drifted.sum(axis=1, keepdims=True)).mean(axis=0))
    assert scores.limit + WITHIN < truly < scores.limit + 3 * WITHIN, "a drift that is no larger than it must be"
    assert (distances(scores, drifted) > scores.limit).all()
    # Traffic that changes within a window: that one and the next together.
    live = np.concatenate([traffic(rng, scores.window // 2), drifted])
    assert (distances(scores, live)[1:] > scores.limit).all()


def test_what_is_little_off_is_no_drift():
    rng = np.random.default_rng(2)
    scores = calibrated(traffic(rng, 300))
    assert (distances(scores, traffic(rng, 50 * scores.window, mean=0.77)) <= scores.limit).all()


def test_more_answers_and_less_variance_make_it_sharper():
    shares = [0.0] * (NUM_BUCKETS - 1) + [1.0]
    limits = [
        CalibratedScores(head="", threshold=0.5, answers=answers, shares=shares, variance=variance)
        for answers, variance in ((30, 0.25), (100, 0.1), (1000, 0.1), (1000, 0.0))
    ]
    assert [round(one.limit, 2) for one in limits] == [0.57, 0.26, 0.14, 0.11]
    assert [one.window for one in limits] == [990, 466, 466, 117]
    for one in limits:
        assert margin(one.variance, one.window, FALSE_ALARMS) == pytest.approx(WITHIN, rel=0.01)
        assert abs(answers_for(one.variance, margin(one.variance, 500, 0.01), 0.01) - 500) <= 1


def test_an_answer_counts_once_however_long_it_is_and_a_window_begins_where_the_last_ended():
    low, high = [7] + [0] * (NUM_BUCKETS - 1), [0] * (NUM_BUCKETS - 1) + [1]
    scores = calibrated(np.array([low, high] * 40))
    assert scores.shares[0] == scores.shares[-1] == 0.5
    window, found = Window(scores), []
    for number in range(3 * scores.window):
        answer = [high, low][number % 2] if number < scores.window else high
        found.append(window.add([100 * count for count in answer]))
    full = [(number + 1, distance) for number, distance in enumerate(found) if distance is not None]
    assert [number for number, _ in full] == [scores.window * count for count in (1, 2, 3)]
    assert full[0][1] < 0.01 and full[1][1] == full[2][1] == 0.5


def test_too_few_answers_are_no_reference_and_those_without_a_judged_draft_are_none():
    one, none = [1] * NUM_BUCKETS, [0] * NUM_BUCKETS
    assert CalibratedScores.measure("head", 0.5, [one] * (MIN_ANSWERS - 1) + [none] * 100) is None
    assert calibrated(np.array([one] * MIN_ANSWERS + [none] * 100)).answers == MIN_ANSWERS


def test_a_head_keeps_its_scores_and_loses_them_with_other_settings(tmp_path):
    scores = calibrated(traffic(np.random.default_rng(3), 50))
    head = JudgeHead(8, scores=scores.model_dump()).requires_grad_(False)
    head.save_pretrained(tmp_path)
    assert JudgeHead.from_pretrained(tmp_path).scores == scores
    assert head.with_config(threshold=0.9).scores is None
    JudgeHead(8).save_pretrained(tmp_path / "plain")
    assert JudgeHead.from_pretrained(tmp_path / "plain").scores is None


@pytest.mark.parametrize(
    "change",
    [
        {"shares": [1.0]},
        {"shares": [1.0] * NUM_BUCKETS},
        {"shares": [float("nan")] * NUM_BUCKETS},
        {"shares": [2.0, -1.0] + [0.0] * (NUM_BUCKETS - 2)},
        {"variance": 0.3},
        {"variance": float("inf")},
        {"answers": 3},
        {"answers": True},
        {"threshold": "0.5"},
        {"more": 1},
        {"head": None},
    ],
)
def test_scores_that_no_calibration_gives_are_refused_in_one_sentence(change):
    given = calibrated(traffic(np.random.default_rng(3), 50)).model_dump() | change
    with pytest.raises(ValidationError):
        CalibratedScores.model_validate(given)
    with pytest.raises(
        HeadError, match=r"^scores of a judge head must be as `vllm-judge calibrate` writes them, .*\.$"
    ):
        HeadConfig.of({"hidden_size": 8, "scores": given})
