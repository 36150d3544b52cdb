"""Our kernels compiled for GPUs that are not here, by every Triton that the supported engines bring: registers, spills,
width of the loads, order of the sums.

Bugs these tests would catch: a kernel that one of the targets or one of the compilers cannot compile, which only its
first user would notice; a change that spills registers to memory, or reads hidden states, weights or logits in pieces
of less than 16 bytes; a reduction laid out over threads differently from vLLM's, which would add in another order and
break bit-identity.

scripts/compile_kernels.py compiles; scripts/add_tritons.sh puts those of scripts/tritons.txt beside the
environment's own.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from compile_kernels import NUM_WARPS, TARGETS, VARIANTS, VOCAB_BLOCK_SIZE  # noqa: E402

try:
    OWN_TRITON = version("triton")
except PackageNotFoundError:
    OWN_TRITON = None
TRITONS = list(dict.fromkeys([*(SCRIPTS / "tritons.txt").read_text().split(), *([OWN_TRITON] if OWN_TRITON else [])]))
NVIDIA = ["sm_80", "sm_90", "sm_100"]
STATISTICS, REJECTION = OURS = ["_judged_logits_stats_kernel", "_judged_rejection_kernel"]
VLLMS_STATISTICS = "_compute_local_logits_stats_kernel"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=TRITONS)
def reports(request, tmp_path_factory):
    """{(variant, kernel, target): report} of one version of Triton, see compile_kernels.report."""
    beside = Path(sys.prefix, "tritons", request.param)
    if request.param != OWN_TRITON and not beside.is_dir():
        pytest.skip(f"Triton {request.param} is not installed: scripts/add_tritons.sh could not have it")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if request.param != OWN_TRITON:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(beside), env.get("PYTHONPATH")]))
    out = tmp_path_factory.mktemp("compile_gate") / "reports.json"
    command = [sys.executable, str(SCRIPTS / "compile_kernels.py"), str(out)]
    child = subprocess.run(command, env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    found = json.loads(out.read_text())
    assert {report["triton"] for report in found} == {request.param}
    return {(report["variant"], report["kernel"], report["target"]): report for report in found}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", OURS)
def test_nothing_spills_to_memory(reports, variant, kernel, target):
    """On AMD, scalar registers kept in lanes of vector registers are not memory and not counted."""
    assert reports[variant, kernel, target]["spilled_bytes"] == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", ["plain", "greedy", "full"])
def test_logits_hidden_states_and_weights_are_loaded_16_bytes_at_a_time(reports, variant, target):
    """A block of logits of each kind, hidden state (bf16) and weights (fp32)."""
    processed, with_evidence, with_draft_logits, hidden_size, *_ = VARIANTS[variant]
    bytes_of_a_logit = (4 if processed else 2) + (2 if with_evidence else 0) + (2 if with_draft_logits else 0)
    report = reports[variant, STATISTICS, target]
    loaded = report["wide_loads"] * 16 * NUM_WARPS * report["warp_size"]
    assert loaded == VOCAB_BLOCK_SIZE * bytes_of_a_logit + hidden_size * (2 + 4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_over_the_vocabulary_are_laid_out_as_vllms(reports, variant, target):
    """Each of vLLM's reductions is among ours, in its order, the evidence's in between."""
    vllms, ours = (reports[variant, kernel, target]["reductions"] for kernel in (VLLMS_STATISTICS, STATISTICS))
    assert len(vllms) >= 3, "argmax, max, sum of exponentials"
    rest = iter(ours)
    assert all(reduction in rest for reduction in vllms)


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("variant", VARIANTS)
def test_registers_leave_room_for_three_programs_on_a_multiprocessor(reports, variant, target):
    """Of its 65,536 registers. Three programs of 128 threads keep 48 KiB of bf16 logits or more in flight."""
    assert reports[variant, STATISTICS, target]["registers"] <= 168


def test_the_table_of_registers_and_shared_memory_is_printed(reports, record_property):
    heading = (
        f"{'variant':10}{'kernel':38}{'target':8}{'registers':>10}{'spilled':>9}{'shared':>8}{'16-byte loads':>15}"
    )
    rows = [
        "{:10}{:38}{:8}".format(*key)
        + f"{r['registers']:>10}{r['spilled_bytes']:>9}{r['shared_bytes']:>8}{r['wide_loads']:>15}"
        for key, r in reports.items()
    ]
    assert len(rows) == len(VARIANTS) * len(TARGETS) * 3, "our two kernels, and the one of vLLM's that ours is held to"
    triton = next(iter(reports.values()))["triton"]
    record_property("printed at the end", "\n".join([f"Triton {triton}", heading, *rows]))
