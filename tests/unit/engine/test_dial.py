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
from vllm_judge.engine import dial
from vllm_judge.engine.admission import is_judged
from vllm_judge.engine.dial import STRICT
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
    assert judge.dial(params(judge_threshold=threshold)) == STRICT


@pytest.mark.parametrize("switch", ["perhaps", None, [], {}, 2, math.nan])
def test_a_switch_that_means_nothing_is_strict_in_a_worker(judge, switch):
    assert judge.dial(params(judge=switch)) == STRICT


@pytest.mark.parametrize("name", ["judge_mode", "judge_scope"])
@pytest.mark.parametrize("value", ["perhaps", None, [], 1, True])
def test_a_mode_or_scope_that_means_nothing_is_strict_in_a_worker(judge, name, value):
    assert judge.dial(params(**{name: value})) == STRICT


def test_a_scope_that_the_engine_does_not_know_is_strict_in_a_worker(judge):
    assert judge.dial(params(judge_scope="thinking")) == STRICT


def test_a_request_that_says_nothing_is_decoded_as_the_engine_is_configured():
    config = JudgeConfig("head", None, 0.5, (), fingerprint="", mode="shadow", scope="thinking", thinking=((3,), (4,)))
    assert dial.read(params(), config)[2:] == (True, True)
    assert dial.read(params(judge_mode="judge", judge_scope="everywhere"), config)[2:] == (False, False)


def test_the_share_is_of_requests_by_their_clients_ids_the_same_every_time():
    names = [f"chatcmpl-{i}" for i in range(20_000)]
    judged = {share: {name for name in names if is_judged(name, share)} for share in (0.0, 0.05, 0.5, 1.0)}
    assert (len(judged[0.0]), len(judged[1.0])) == (0, len(names))
    # Four standard deviations.
    assert abs(len(judged[0.05]) - 1000) < 124 and abs(len(judged[0.5]) - 10_000) < 283
    assert judged[0.05] < judged[0.5]
    # With another hash other requests would be judged after an upgrade.
    assert [i for i in range(60) if is_judged(f"chatcmpl-{i}", 0.05)] == [1, 6, 22, 45, 47, 53]


def test_more_stop_tokens_than_there_is_room_for_are_strict_in_a_worker(judge):
    assert len(judge.dial(SamplingParams(stop_token_ids=list(range(2, 130)))).stop_token_ids) == 128
    assert judge.dial(SamplingParams(stop_token_ids=list(range(1000, 1200)))) == STRICT


def test_a_dial_holds_the_stop_tokens_that_a_draft_can_be(judge):
    stops = [5, 7, tiny.EOS, tiny.VOCAB, -1, 2**40]
    assert judge.dial(SamplingParams(stop_token_ids=stops)).stop_token_ids == (5, 7)


@pytest.mark.skipif(IN_CHILD, reason="this is the child")
def test_in_the_interpreter():
    run_in_interpreter(str(Path(__file__)) + "::test_a_requests_stop_tokens_on_v2_stay_in_its_own_row")


@pytest.mark.skipif(not IN_CHILD, reason="runs in the interpreter")
def test_a_requests_stop_tokens_on_v2_stay_in_its_own_row(judge):
    import vllm.v1.worker.cpu.shm  # noqa: F401 (what V2's buffers need on a CPU)
    from vllm.v1.worker.gpu.states import RequestState

    from vllm_judge.engine.v2_states import RequestStates

    states = RequestStates(judge, RequestState(3, 8, 8, 4, tiny.VOCAB, torch.device("cpu")))
    requests = {1: [7], 0: list(range(1000, 1200)), 2: list(range(3, 131))}
    for index, stops in requests.items():
        states.add_request(index, SamplingParams(stop_token_ids=stops), raw_scale=0.0)
        states.apply_staged_writes()
    assert states.num_stop_token_ids.np.tolist() == [0, 1, 128]
    assert states.stop_token_ids.gpu[1, 0] == 7 and states.stop_token_ids.gpu[2].tolist() == requests[2]
    assert states.threshold.np.tolist() == [math.inf, 0.0, 0.0]
