"""What the embedded models' engines are started with, and what is shown where one does not start."""

import os
import sys
from pathlib import Path

import pytest
import torch

from vllm_judge.benchmarks.offline import last_lines
from vllm_judge.demo.engine import engine_environment


@pytest.mark.skipif(torch.cuda.is_available(), reason="only vLLM on a CPU asks for an OpenMP runtime")
def test_an_openmp_runtime_that_is_preloaded_stays_the_only_one(monkeypatch):
    """vLLM preloads PyTorch's as soon as a config is made, for its children too, and refuses a second one."""
    intel = Path(sys.prefix, "lib", "libiomp5.so")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert engine_environment().get("LD_PRELOAD") == (str(intel) if intel.exists() else None)
    for own in ("/torch/lib/libgomp.so.1", "/lib/libomp.so", str(intel)):
        monkeypatch.setenv("LD_PRELOAD", f"/lib/libtcmalloc.so:{own}")
        assert engine_environment()["LD_PRELOAD"] == os.environ["LD_PRELOAD"]


@pytest.mark.parametrize("cause", ["(EngineCore) ERROR ValueError: no memory", "AssertionError"])
def test_the_first_error_is_shown_before_the_end_of_a_log(tmp_path, cause):
    (tmp_path / "log").write_text(
        f"INFO starts\n(APIServer) WARNING fd limit: `OSError: [Errno 24]`\n{cause}\n"
        + "at line\n" * 40
        + "RuntimeError: initialization failed"
    )
    shown = last_lines(tmp_path / "log").splitlines()
    assert (shown[0], shown[-1], len(shown)) == (cause, "RuntimeError: initialization failed", 16)
