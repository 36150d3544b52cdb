"""What a watched server's counters come to: values by hand, intervals over slices of time, servers that cannot say."""

import pytest

from vllm_judge.errors import JudgeError
from vllm_judge.measuring.statistics import Estimate
from vllm_judge.quality.shadow import Counts, Scores, summarise, watch

TEXT = """
# TYPE vllm:spec_decode_judge_cycles counter
vllm:spec_decode_judge_cycles_total{engine="0",mode="judge"} 10.0
vllm:spec_decode_judge_cycles_total{engine="1",mode="judge"} 10.0
vllm:spec_decode_judge_cycles_total{engine="0",mode="shadow"} 40.0
# TYPE vllm:spec_decode_judge_accepted_tokens counter
vllm:spec_decode_judge_accepted_tokens_total{engine="0",mode="judge"} 100.0
vllm:spec_decode_judge_accepted_tokens_total{engine="0",mode="shadow"} 80.0
# TYPE vllm:spec_decode_judge_shadow_gain_tokens counter
vllm:spec_decode_judge_shadow_gain_tokens_total{engine="0"} 60.0
# TYPE vllm:spec_decode_num_judge_only_tokens counter
vllm:spec_decode_num_judge_only_tokens_total{engine="0"} 25.0
"""


def test_counters_of_engines_are_added_up_by_mode():
    assert Counts.parse(TEXT) == Counts(40, 80, 60, 20, 100, 25)


def test_a_server_without_a_judge_is_refused():
    with pytest.raises(JudgeError, match="serve it with a section `judge`"):
        Counts.parse("# TYPE vllm:spec_decode_num_drafts counter\nvllm:spec_decode_num_drafts_total 5.0\n")


def test_figures_are_ratios_of_sums_with_intervals_over_slices():
    watched = summarise([Counts(10, 20, 10, 5, 30, 15), Counts(30, 60, 50, 15, 70, 10), Counts(0, 0, 0, 0, 0, 0)])
    assert (watched.shadow_cycles, watched.judged_cycles) == (40, 20)
    assert watched.strict == Estimate(2.0, 2.0, 2.0)
    assert watched.floor is not None and watched.judged is not None and watched.speedup is not None
    assert (watched.floor.value, watched.floor.low, watched.floor.high) == pytest.approx((3.5, 3.0, 11 / 3))
    assert watched.judged.value == 5.0 and watched.judged.low < 5.0 < watched.judged.high
    assert watched.judge_only is not None and watched.judge_only.value == 0.25
    assert watched.speedup.value == pytest.approx(6 / 3) and watched.speedup.low < 2 < watched.speedup.high


def test_without_requests_of_a_kind_nothing_is_said_of_it():
    watched = summarise([Counts(10, 20, 10, 0, 0, 0)])
    assert watched.floor == Estimate(3.0, 3.0, 3.0)
    assert (watched.judged, watched.judge_only, watched.speedup) == (None, None, None)


def test_each_slice_is_what_was_counted_in_it():
    totals = iter([Counts(n, 2 * n, 0, 0, 0, 0) for n in (5, 7, 12)])
    assert watch(lambda: next(totals), seconds=0.02, slices=2) == [Counts(2, 4, 0, 0, 0, 0), Counts(5, 10, 0, 0, 0, 0)]


GUARD = """
# TYPE vllm:spec_decode_judge_score_windows counter
vllm:spec_decode_judge_score_windows_total{engine="0",mode="judge",drifted="no"} 3.0
vllm:spec_decode_judge_score_windows_total{engine="0",mode="judge",drifted="yes"} 1.0
vllm:spec_decode_judge_score_windows_total{engine="0",mode="shadow",drifted="no"} 0.0
vllm:spec_decode_judge_score_windows_total{engine="0",mode="shadow",drifted="yes"} 2.0
vllm:spec_decode_judge_score_windows_total{engine="1",mode="judge",drifted="no"} 0.0
vllm:spec_decode_judge_score_windows_total{engine="1",mode="judge",drifted="yes"} 0.0
# TYPE vllm:judge_drift gauge
vllm:judge_drift{engine="0",mode="judge"} 0.31
vllm:judge_drift{engine="0",mode="shadow"} 0.25
vllm:judge_drift{engine="1",mode="judge"} 0.0
# TYPE vllm:judge_drift_limit gauge
vllm:judge_drift_limit{engine="0"} 0.17
vllm:judge_drift_limit{engine="1"} 0.17
# TYPE vllm:judge_stopped gauge
vllm:judge_stopped{engine="0"} 1.0
vllm:judge_stopped{engine="1"} 0.0
"""


def test_each_engines_scores_are_told_in_words_and_where_there_is_nothing_to_compare_none_are():
    assert list(map(str, Scores.parse(TEXT + GUARD))) == [
        "engine 0, judged: judging has stopped; 0.310 from the calibration, beyond the limit of 0.170 (1 of 4 windows "
        "were beyond it)",
        "engine 0, in shadow: judging has stopped; 0.250 from the calibration, which was judged, in the last of 2 "
        "windows",
        "engine 1, judged: no window of answers is full yet",
    ]
    assert Scores.parse(TEXT) == []
