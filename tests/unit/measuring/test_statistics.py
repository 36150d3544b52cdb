"""Intervals and tests against values known from elsewhere, and at the edges where formulas break down."""

import pytest

from vllm_judge.measuring.statistics import accuracy, mcnemar, paired_difference


def answers(right: int, wrong: int) -> list[bool]:
    return [True] * right + [False] * wrong


def test_wilsons_interval_of_93_in_100():
    estimate = accuracy(answers(93, 7))
    assert (estimate.value, round(estimate.low, 3), round(estimate.high, 3)) == (0.93, 0.863, 0.966)


def test_all_right_is_not_certainly_all():
    estimate = accuracy(answers(100, 0))
    assert estimate.value == estimate.high == 1.0
    assert 0.95 < estimate.low < 0.97


def test_no_answers_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        accuracy([])
    with pytest.raises(ValueError, match="as many"):
        paired_difference([True], [])


def test_a_paired_difference_depends_on_the_pairs_not_on_the_totals():
    """Both sides have 90 of 100 right; agreeing on which makes the difference certain."""
    same = paired_difference(answers(90, 10), answers(90, 10))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    other = paired_difference(answers(90, 10), answers(90, 10)[::-1])
    assert other.value == 0.0
    assert other.low < -0.05 and other.high > 0.05


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_pairs():
    correct = answers(950, 50)
    baseline = answers(900, 50) + answers(20, 30)
    estimate = paired_difference(correct, baseline)
    # 50 won, 20 lost of 1,000: difference 0.03, standard error sqrt(0.07 - 0.03**2) / sqrt(1000).
    assert estimate.value == pytest.approx(0.03)
    assert estimate.low == pytest.approx(0.03 - 1.96 * 0.00831, abs=0.002)
    assert estimate.high == pytest.approx(0.03 + 1.96 * 0.00831, abs=0.002)
    assert paired_difference(correct, baseline) == estimate


def test_mcnemar_counts_only_where_the_sides_differ():
    assert mcnemar(answers(90, 10), answers(90, 10)) == 1.0
    # 1 won, 6 lost: 2 * (C(7,0) + C(7,1)) / 2**7.
    assert mcnemar([True] + [False] * 6 + [True] * 50, [False] + [True] * 6 + [True] * 50) == pytest.approx(0.125)
