"""Our kernels compiled for GPUs that are not here: registers, spills, width of the loads, order of the sums.

Bugs these tests would catch: a kernel that one of the targets cannot compile, which only its first user would notice; a
change that spills registers to memory, or reads hidden states, weights or logits in pieces of less than 16 bytes; a
reduction laid out over threads differently from vLLM's, which would add in another order and break bit-identity.

The gate records what `judged_rejection_sample` and vLLM's `rejection_sample` launch on empty tensors of a real model's
shapes, and compiles that as a launch would, so that signature and alignment cannot drift from the code. The child
process exists because vLLM turns Triton off on a machine without a GPU, for good, when it is imported.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Llama 3's shape with 16 drafts; a hidden size above one pass of the judge's loop compiles to the same code.
HIDDEN_SIZE, VOCAB_SIZE, NUM_REQS, NUM_DRAFTS = 4096, 128256, 8, 16
VOCAB_BLOCK_SIZE = 8192
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
# Name: (processed fp32 target logits beside bf16 raw ones, evidence, draft logits), and the bytes that its code loads
# in vectors: a block of logits of each kind, hidden state (bf16), weights (fp32).
VARIANTS = {
    "plain": ((False, False, False), VOCAB_BLOCK_SIZE * 2 + HIDDEN_SIZE * (2 + 4)),
    "full": ((True, True, True), VOCAB_BLOCK_SIZE * (4 + 2 + 2) + HIDDEN_SIZE * (2 + 4)),
}
NUM_WARPS = 4

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """{(variant, kernel, target): report}, see `report`."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    out = tmp_path_factory.mktemp("compile_gate") / "reports.json"
    child = subprocess.run([sys.executable, __file__, str(out)], env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    return {(r["variant"], r["kernel"], r["target"]): r for r in json.loads(out.read_text())}


OURS = ["_judged_logits_stats_kernel", "_judged_rejection_kernel"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", OURS)
def test_nothing_spills_to_memory(reports, variant, kernel, target):
    """On AMD, scalar registers kept in lanes of vector registers are not memory and not counted."""
    assert reports[variant, kernel, target]["spilled_bytes"] == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_hidden_states_and_weights_are_loaded_16_bytes_at_a_time(reports, variant, target):
    report = reports[variant, OURS[0], target]
    _, vector_bytes = VARIANTS[variant]
    assert report["wide_loads"] * 16 * NUM_WARPS * report["warp_size"] == vector_bytes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_over_the_vocabulary_are_laid_out_as_vllms(reports, variant, target):
    vllms = reports[variant, "_compute_local_logits_stats_kernel", target]["reductions"]
    ours = reports[variant, OURS[0], target]["reductions"]
    assert len(vllms) >= 3, "argmax, max, sum of exponentials"
    assert ours[: len(vllms)] == vllms


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_registers_leave_room_for_three_programs_on_a_multiprocessor(reports, variant, target):
    """Of its 65,536 registers. Three programs of 128 threads keep 48 KiB of bf16 logits or more in flight."""
    assert reports[variant, OURS[0], target]["registers"] <= 168


def test_the_table_of_registers_and_shared_memory_is_printed(reports, record_property):
    heading = f"{'variant':8}{'kernel':38}{'target':8}{'registers':>10}{'spilled':>9}{'shared':>8}{'16-byte loads':>15}"
    rows = [
        "{:8}{:38}{:8}".format(*key)
        + f"{r['registers']:>10}{r['spilled_bytes']:>9}{r['shared_bytes']:>8}{r['wide_loads']:>15}"
        for key, r in reports.items()
    ]
    assert len(rows) == len(VARIANTS) * len(TARGETS) * 3, "our two kernels, and the one of vLLM's that ours is held to"
    record_property("printed at the end", "\n".join([heading, *rows]))


# --- What follows runs in the child process. ---


def main(out: str):
    use_triton_without_a_gpu()
    from triton.backends.compiler import GPUTarget

    reports = []
    for variant, (options, _) in VARIANTS.items():
        for launch in record_launches(*options):
            for target, arguments in TARGETS.items():
                compiled = compile_launch(launch, GPUTarget(*arguments))
                reports.append({"variant": variant, "kernel": launch[0].__name__, "target": target, **report(compiled)})
    Path(out).write_text(json.dumps(reports))


def use_triton_without_a_gpu():
    """Imports vLLM's kernels as Triton's, with the stand-in backend of the shim in place only while they load."""
    spec = importlib.util.spec_from_file_location("shim", Path(__file__).parents[2] / "shim" / "sitecustomize.py")
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    import triton.backends

    shim.register_cpu_backend(triton.backends)
    import vllm_judge.kernels.verify  # noqa: F401

    triton.backends.backends.pop(shim.CPU_BACKEND, None)


def record_launches(processed: bool, with_evidence: bool, with_draft_logits: bool) -> list[tuple]:
    """(kernel, arguments, keyword arguments) of our two launches and of vLLM's statistics."""
    import torch
    from triton.runtime.jit import JITFunction
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    from vllm_judge.kernels.verify import judged_rejection_sample

    launches = []
    JITFunction.run = lambda self, *args, grid, warmup, **kwargs: launches.append((self, args, kwargs))
    num_logits, new, bf16, int32 = NUM_REQS * (NUM_DRAFTS + 1), torch.empty, torch.bfloat16, torch.int32
    raw_logits = new(num_logits, VOCAB_SIZE, dtype=bf16)
    strict = {
        "target_logits": new(num_logits, VOCAB_SIZE) if processed else raw_logits,
        "draft_logits": new(NUM_REQS, NUM_DRAFTS, VOCAB_SIZE, dtype=bf16) if with_draft_logits else None,
        "draft_sampled": new(num_logits, dtype=int32),
        "cu_num_logits": new(NUM_REQS + 1, dtype=int32),
        "pos": new(num_logits, dtype=torch.int64),
        "idx_mapping": new(NUM_REQS, dtype=int32),
        "expanded_idx_mapping": new(num_logits, dtype=int32),
        "expanded_local_pos": new(num_logits, dtype=int32),
        "temperature": new(NUM_REQS),
        "seed": new(NUM_REQS, dtype=torch.int64),
        "num_speculative_steps": NUM_DRAFTS,
        "use_fp64": False,
    }
    rejection_sample(**strict)
    del launches[1:]
    judged_rejection_sample(
        **strict,
        raw_logits=raw_logits,
        raw_differs=new(NUM_REQS, dtype=torch.bool),
        draft_constrained=new(num_logits) if processed else None,
        hidden=new(num_logits, HIDDEN_SIZE, dtype=bf16),
        hidden_rows=new(num_logits, dtype=int32),
        weight=new(HIDDEN_SIZE),
        bias=new(()),
        evidence_weight=new(4) if with_evidence else None,
        threshold=new(NUM_REQS),
        protected=new(VOCAB_SIZE, dtype=torch.bool),
        stop_token_ids=new(NUM_REQS, 128, dtype=int32),
        num_stop_token_ids=new(NUM_REQS, dtype=int32),
    )
    return launches[:3]


def compile_launch(launch: tuple, target):
    """Compiles one launch for a target, specialized on its arguments as `JITFunction.run` does it."""
    import triton
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, args, kwargs = launch
    kwargs = kwargs | {"debug": False}
    backend = make_backend(target)
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *args, **kwargs
    )
    options, signature, constexprs, attrs = kernel._pack_args(backend, kwargs, bound, specialization, options)
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=target, options=options.__dict__)


def report(compiled) -> dict:
    """Registers of a thread, bytes of a thread spilled to memory, bytes of shared memory, 16-byte loads, reductions."""
    found = report_amd(compiled.asm["amdgcn"]) if "amdgcn" in compiled.asm else report_nvidia(compiled.asm["cubin"])
    return found | {"shared_bytes": compiled.metadata.shared, "reductions": reductions(compiled.asm["ttgir"])}


def report_nvidia(cubin: bytes) -> dict:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def run(tool, option):
            command = [tools / tool, option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", run("cuobjdump", "-res-usage")))
        sass = run("nvdisasm", "-c")
    return {
        "registers": int(usage["REG"]),
        "spilled_bytes": int(usage["STACK"]) + int(usage["LOCAL"]) + 4 * len(re.findall(r"\b(STL|LDL)\b", sass)),
        "wide_loads": len(re.findall(r"\bLDG\.E\.(?:\w+\.)*128\b", sass)),
        "warp_size": 32,
    }


def report_amd(assembly: str) -> dict:
    metadata = dict(re.findall(r"\.(vgpr_count|private_segment_fixed_size): +(\d+)", assembly))
    return {
        "registers": int(metadata["vgpr_count"]),
        "spilled_bytes": int(metadata["private_segment_fixed_size"]),
        "wide_loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4\b", assembly)),
        "warp_size": 64,
    }


def reductions(ttgir: str) -> list[str]:
    """Operand types, layouts spelled out, of the reductions over a block of the vocabulary, in program order."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, flags=re.MULTILINE))
    operands = re.findall(r"\}\) : \(([^)]*)\) -> ", ttgir)
    spelled_out = [re.sub(r"#\w+", lambda m: layouts.get(m[0], m[0]), operand) for operand in operands]
    return [operand for operand in spelled_out if f"tensor<{VOCAB_BLOCK_SIZE}x" in operand]


if __name__ == "__main__":
    main(sys.argv[1])
