"""A request's dial as a worker reads it: nothing that a request can hold raises there, or reaches another request."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from interpreter import IN_CHILD, run_in_interpreter
from vllm import SamplingParams

from vllm_judge.config import JudgeConfig
from vllm_judge.engine.judge import Judge


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    folder = tiny.make_head(tmp_path_factory.mktemp("heads") / "judge", 0.0)
    config = JudgeConfig(str(folder), None, threshold=0.5, protected_token_ids=(0, tiny.EOS, 100_000), fingerprint="")
    return Judge(config, tiny.VOCAB, torch.device("cpu"))


def params(**extra_args: Any) -> SamplingParams:
    return SamplingParams(extra_args=extra_args)


@pytest.mark.parametrize(
    ("extra_args", "threshold"),
    [
        ({}, 0.0),
        ({"judge_threshold": 0}, -math.inf),
        ({"judge_threshold": 1}, math.inf),
        ({"judge": 1.0, "judge_threshold": 0.75}, math.log(3)),
        ({"judge": "false", "judge_threshold": 0.75}, math.inf),
        ({"unrelated": []}, 0.0),
    ],
)
def test_a_dial_sets_the_threshold(judge, extra_args, threshold):
    assert judge.dial(params(**extra_args)).threshold == pytest.approx(threshold)


@pytest.mark.parametrize("threshold", [2, -1, math.nan, True, "0.5", None, [], 2**63, "x" * 10_000])
def test_a_threshold_that_means_nothing_is_strict_in_a_worker(judge, threshold):
    assert judge.dial(params(judge_threshold=threshold)) == (math.inf, ())


@pytest.mark.parametrize("switch", ["perhaps", None, [], {}, 2, math.nan])
def test_a_switch_that_means_nothing_is_strict_in_a_worker(judge, switch):
    assert judge.dial(params(judge=switch)) == (math.inf, ())


def test_more_stop_tokens_than_there_is_room_for_are_strict_in_a_worker(judge):
    assert len(judge.dial(SamplingParams(stop_token_ids=list(range(2, 130)))).stop_token_ids) == 128
    assert judge.dial(SamplingParams(stop_token_ids=list(range(1000, 1200)))) == (math.inf, ())


def test_a_dial_holds_the_stop_tokens_that_a_draft_can_be(judge):
    stops = [5, 7, tiny.EOS, tiny.VOCAB, -1, 2**40]
    assert judge.dial(SamplingParams(stop_token_ids=stops)).stop_token_ids == (5, 7)


@pytest.mark.skipif(IN_CHILD, reason="this is the child")
def test_in_the_interpreter():
    run_in_interpreter(str(Path(__file__)) + "::test_a_requests_stop_tokens_on_v2_stay_in_its_own_row")


@pytest.mark.skipif(not IN_CHILD, reason="runs in the interpreter")
def test_a_requests_stop_tokens_on_v2_stay_in_its_own_row(judge):
    import vllm.v1.worker.cpu.shm  # noqa: F401 (what V2's buffers need on a CPU)

    from vllm_judge.engine.v2 import RequestStates

    states = RequestStates(judge, 3, torch.device("cpu"))
    requests = {1: [7], 0: list(range(1000, 1200)), 2: list(range(3, 131))}
    for index, stops in requests.items():
        states.add_request(index, SamplingParams(stop_token_ids=stops), False)
        states.apply_staged_writes()
    assert states.num_stop_token_ids.np.tolist() == [0, 1, 128]
    assert states.stop_token_ids.gpu[1, 0] == 7 and states.stop_token_ids.gpu[2].tolist() == requests[2]
    assert states.threshold.np.tolist() == [math.inf, 0.0, 0.0]
