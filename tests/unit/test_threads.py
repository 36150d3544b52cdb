"""Threads by the size of a model."""

import os
import subprocess
import sys

import pytest
import tiny
import torch

from vllm_judge import threads
from vllm_judge.decoding.pair import Pair
from vllm_judge.training.choices import Dtype
from vllm_judge.training.sources import TransformersSource


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(threads, "_MOST", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("millions", "expected"), [(2, 1), (40, 2), (1000, 8)])
def test_a_small_model_leaves_the_other_cores_alone_and_a_large_one_has_all(eight_cores, millions, expected):
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(1000, 1000 * millions, device="meta")
    threads.set_threads(small, large)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize("tool", ["compare and calibrate", "hidden states and replay"])
def test_every_tool_chooses_when_it_has_loaded_its_models(eight_cores, tmp_path, tool):
    target, draft = tmp_path / "target", tmp_path / "draft"
    tiny.make_draft(tiny.make_target(target), draft)
    if tool == "hidden states and replay":
        TransformersSource(str(target), Dtype.float32)
    else:
        Pair.load(str(target), str(draft), torch.float32)
    assert torch.get_num_threads() == 1


def test_no_model_gets_more_threads_than_the_environment_allows():
    code = (
        "import torch; from vllm_judge.threads import set_threads\n"
        "set_threads(torch.nn.Linear(10**5, 10**5, device='meta')); print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert int(said.stdout) == 1
