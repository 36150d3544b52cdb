"""Compiles the verification kernels for GPUs that are not here, and writes what came of it as JSON.

It records what `judged_rejection_sample` and vLLM's `rejection_sample` launch on empty tensors of a real model's
shapes, and compiles that as a launch would, so that signature and alignment cannot drift from the code. To be run in a
process of its own, with the Triton that is on its path: vLLM turns Triton off on a machine without a GPU, for good,
when it is imported.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

SHIM = Path(__file__).parents[1] / "tests" / "shim" / "sitecustomize.py"
NUM_REQS, NUM_DRAFTS = 8, 16
VOCAB_BLOCK_SIZE = 8192
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
NUM_WARPS = 4


class Variant(NamedTuple):
    """What a step holds, in the shape of Llama 3; a hidden size above one pass of the judge's loop compiles the same.

    Attributes:
        processed: fp32 target logits beside bf16 raw ones.
        with_thinking: an engine with a reasoning config, whose requests may confine the judge to reasoning.
    """

    processed: bool
    with_evidence: bool
    with_draft_logits: bool
    hidden_size: int = 4096
    vocab_size: int = 128256
    with_thinking: bool = False


VARIANTS = {
    "plain": Variant(processed=False, with_evidence=False, with_draft_logits=False),
    "greedy": Variant(processed=False, with_evidence=True, with_draft_logits=False),
    "full": Variant(processed=True, with_evidence=True, with_draft_logits=True),
    # Rows that begin at any address: nothing is loaded in vectors.
    "thinking": Variant(True, True, True, with_thinking=True),
    "unaligned": Variant(True, True, True, hidden_size=4097, vocab_size=128257),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="a list of reports is written there")
    out = parser.parse_args().json
    use_triton_without_a_gpu()
    import triton
    from triton.backends.compiler import GPUTarget

    reports = []
    for name, variant in VARIANTS.items():
        for launch in record_launches(variant):
            for target, arguments in TARGETS.items():
                compiled = compile_launch(launch, GPUTarget(*arguments))
                key = {"variant": name, "kernel": launch[0].__name__, "target": target, "triton": triton.__version__}
                reports.append(key | report(compiled))
    out.write_text(json.dumps(reports), encoding="utf-8")


def use_triton_without_a_gpu() -> None:
    """Imports vLLM's kernels as Triton's.

    vLLM built for CPU uses Triton where it has a CPU backend: the shim's, in place only while the kernels load. Any
    other vLLM uses Triton without a driver only where no GPU is visible on purpose.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    spec = importlib.util.spec_from_file_location("shim", SHIM)
    assert spec is not None and spec.loader is not None
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    import triton.backends

    shim.register_cpu_backend(triton.backends)
    import vllm_judge.kernels.verify  # noqa: F401

    triton.backends.backends.pop(shim.CPU_BACKEND, None)


def record_launches(variant: Variant) -> list[tuple[Any, ...]]:
    """(kernel, arguments, keyword arguments) of our two launches and of vLLM's statistics."""
    import torch
    from triton.runtime.jit import JITFunction
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    from vllm_judge.kernels.inputs import Thinking
    from vllm_judge.kernels.verify import judged_rejection_sample

    processed, with_evidence, with_draft_logits, hidden_size, vocab_size, with_thinking = variant
    launches: list[tuple[Any, ...]] = []
    JITFunction.run = lambda self, *args, grid, warmup, **kwargs: launches.append((self, args, kwargs))
    num_logits, new, bf16, int32 = NUM_REQS * (NUM_DRAFTS + 1), torch.empty, torch.bfloat16, torch.int32
    raw_logits = new(num_logits, vocab_size, dtype=bf16)
    uint8, texts = torch.uint8, new(NUM_REQS, 4096, dtype=int32)
    thinking = Thinking(
        confined=new(NUM_REQS, dtype=uint8),
        state=new(NUM_REQS, dtype=int32),
        num_read=new(NUM_REQS, dtype=int32),
        all_token_ids=texts,
        all_token_ids_stride=texts.stride(0),
        total_len=new(NUM_REQS, dtype=int32),
        token_class=new(vocab_size, dtype=uint8),
        transition=new(18, dtype=int32),
        num_classes=3,
    )
    strict: dict[str, Any] = {
        "target_logits": new(num_logits, vocab_size) if processed else raw_logits,
        "draft_logits": new(NUM_REQS, NUM_DRAFTS, vocab_size, dtype=bf16) if with_draft_logits else None,
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
        raw_scale=new(NUM_REQS),
        draft_constrained=new(num_logits) if processed else None,
        hidden=new(num_logits, hidden_size, dtype=bf16),
        hidden_rows=new(num_logits, dtype=int32),
        weight=new(hidden_size),
        bias=new(()),
        evidence_weight=new(4) if with_evidence else None,
        threshold=new(NUM_REQS),
        protected=new(vocab_size, dtype=torch.bool),
        stop_token_ids=new(NUM_REQS, 128, dtype=int32),
        num_stop_token_ids=new(NUM_REQS, dtype=int32),
        shadow=new(NUM_REQS, dtype=uint8),
        thinking=thinking if with_thinking else None,
    )
    return launches[:3]


def compile_launch(launch: tuple[Any, ...], target: Any) -> Any:
    """Compiles one launch for a target, specialized on its arguments as `JITFunction.run` does it."""
    import triton
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    from vllm_judge.kernels.statistics import CUDA_OPTIONS, _judged_logits_stats_kernel

    kernel, args, kwargs = launch
    kwargs = kwargs | {"debug": False}
    if kernel is _judged_logits_stats_kernel and target.backend == "cuda":
        kwargs |= CUDA_OPTIONS  # on a machine with such a GPU the launch itself gives them
    backend = make_backend(target)
    bound, specialization, options = create_function_from_signature(kernel.signature, kernel.params, backend)(
        *args, **kwargs
    )
    options, signature, constexprs, attrs = kernel._pack_args(backend, kwargs, bound, specialization, options)
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=target, options=options.__dict__)


def report(compiled: Any) -> dict[str, Any]:
    """Registers of a thread, bytes of a thread spilled to memory, bytes of shared memory, 16-byte loads, reductions."""
    found = report_amd(compiled.asm["amdgcn"]) if "amdgcn" in compiled.asm else report_nvidia(compiled.asm["cubin"])
    return found | {"shared_bytes": compiled.metadata.shared, "reductions": reductions(compiled.asm["ttgir"])}


def report_nvidia(cubin: bytes) -> dict[str, Any]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def run(tool: str, option: str) -> str:
            command = [str(tools / tool), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", run("cuobjdump", "-res-usage")))
        sass = run("nvdisasm", "-c")
    return {
        "registers": int(usage["REG"]),
        "spilled_bytes": int(usage["STACK"]) + int(usage["LOCAL"]) + 4 * len(re.findall(r"\b(STL|LDL)\b", sass)),
        "wide_loads": len(re.findall(r"\bLDG\.E\.(?:\w+\.)*128\b", sass)),
        "warp_size": 32,
    }


def report_amd(assembly: str) -> dict[str, Any]:
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
    main()
