"""The cases of scripts/bench_kernels.py in Triton's interpreter: they do what they say, and move the bytes they say.

It would catch: a case whose drafts are decided in another way than its name says, so that a time would be that of other
work; a tensor that is left out of the bytes, or counted twice, which would shift every share of the roofline.

Triton chooses between interpreter and compiler when it is imported, so all of this runs in a child process.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreter import IN_CHILD, run_in_interpreter

from vllm_judge.benchmarks.kernels import KernelsFile

SCRIPTS = Path(__file__).parents[3] / "scripts"

if IN_CHILD:
    import numpy as np
    from triton.runtime import interpreter

    sys.path.insert(0, str(SCRIPTS))
    from bench_kernels import both_sides
    from kernel_cases import JUDGE, KINDS, SAMPLED, STRICT, Case, cases

    SHAPE = {"batch": 2, "num_drafts": 3, "vocab_size": 17000, "hidden_size": 576}


@pytest.mark.skipif(IN_CHILD, reason="this is the child process")
@pytest.mark.timeout(900)
def test_in_triton_interpreter():
    """Runs TestCases."""
    run_in_interpreter(__file__)


@pytest.mark.skipif(IN_CHILD or torch.cuda.is_available(), reason="this is the child process, or there is a GPU")
@pytest.mark.timeout(900)
def test_without_a_gpu_it_writes_what_can_be_known(tmp_path):
    out = tmp_path / "kernels.json"
    script = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_kernels.py"), "--json", str(out)], capture_output=True, text=True
    )
    assert script.returncode == 0, script.stdout + script.stderr
    found = KernelsFile.model_validate_json(out.read_text(encoding="utf-8"))
    assert found.compiled and found.cases and found.copy_bytes_per_s is None
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.json"]


class Traffic:
    """Bytes that kernels load and store, each address once in a launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.bytes = 0
        self.touched: dict[tuple[str, int], list[np.ndarray]] = {}
        builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
        load, store, launch = builder.create_masked_load, builder.create_masked_store, executor.__call__

        def counted_load(builder, pointers, mask, *rest, **options):
            self.note("load", pointers, mask)
            return load(builder, pointers, mask, *rest, **options)

        def counted_store(builder, pointers, value, mask, *rest, **options):
            self.note("store", pointers, mask)
            return store(builder, pointers, value, mask, *rest, **options)

        def counted_launch(*args, **options):
            self.touched.clear()
            launch(*args, **options)
            for (_, width), addresses in self.touched.items():
                self.bytes += width * len(np.unique(np.concatenate(addresses)))

        monkeypatch.setattr(builder, "create_masked_load", counted_load)
        monkeypatch.setattr(builder, "create_masked_store", counted_store)
        monkeypatch.setattr(executor, "__call__", counted_launch)

    def note(self, way, pointers, mask):
        width = pointers.get_element_ty().primitive_bitwidth // 8
        addresses = pointers.data[np.broadcast_to(mask.data.astype(bool), pointers.data.shape)]
        self.touched.setdefault((way, width), []).append(addresses.ravel())


@pytest.mark.skipif(not IN_CHILD, reason="needs Triton's interpreter")
class TestCases:
    @pytest.mark.parametrize("kind", ["greedy", "sampled", "processed"])
    @pytest.mark.parametrize("accepted_by", ["strict", "judge"])
    def test_drafts_are_accepted_by_whom_the_case_says(self, kind, accepted_by):
        sides = both_sides(Case(**SHAPE, kind=kind, accepted_by=accepted_by), "cpu")  # refuses where ours does not
        _, num_sampled = sides["vllm"]()
        assert num_sampled.tolist() == [SHAPE["num_drafts"] + 1 if accepted_by == STRICT else 1] * SHAPE["batch"]

    @pytest.mark.parametrize("side", ["ours", "vllm"])
    @pytest.mark.parametrize("kind", ["greedy", "sampled", "processed"])
    @pytest.mark.parametrize("accepted_by", ["strict", "judge"])
    def test_bytes_are_those_that_the_kernels_move(self, kind, accepted_by, side, monkeypatch):
        """But for what does not grow with vocabulary or hidden size: tokens, positions, thresholds."""
        case = Case(**SHAPE, kind=kind, accepted_by=accepted_by)
        call = both_sides(case, "cpu")[side]
        traffic = Traffic(monkeypatch)
        call()
        said = case.bytes_moved(judged=side == "ours")
        assert 0 <= traffic.bytes - said < 0.01 * said

    def test_a_temperature_alone_costs_no_second_read_of_the_logits(self):
        sampled = [case for case in cases() if case.kind == SAMPLED]
        assert max(case.bytes_moved(judged=True) / case.bytes_moved(judged=False) for case in sampled) <= 1.1

    def test_cases_cover_the_shapes_that_are_promised(self):
        every = list(cases())
        assert len(every) == len(set(every))
        for kind in KINDS:
            for accepted_by in (STRICT, JUDGE):
                some = [case for case in every if (case.kind, case.accepted_by) == (kind, accepted_by)]
                assert {1, 256} <= {case.batch for case in some}
                assert {1, 32} <= {case.num_drafts for case in some}
                assert {32000, 151936} <= {case.vocab_size for case in some}
                assert {2048, 16384} <= {case.hidden_size for case in some}
