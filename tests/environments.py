"""The environments that engines run in, and how many tokens they draft."""

import os
from pathlib import Path

import torch

NUM_DRAFTS = 4
KV_CACHE_BYTES = 2**26  # plenty for a tiny model; on a CPU an engine would clear gigabytes, and several are alive
# The models are tiny: a second thread costs more than it brings, and threads bound to cores would fight over them.
CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
# vLLM binds tensor-parallel CPU ranks to cores and must be told which.
CPU_TWO_RANKS = {**CPU, "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
# Triton's interpreter, with the shim in every process.
INTERPRETER = {
    "TRITON_INTERPRET": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent / "shim"), os.environ.get("PYTHONPATH")])),
}
# The interpreter is what makes V2 run on a machine without a GPU.
RUNNERS = {
    "v1": {"VLLM_USE_V2_MODEL_RUNNER": "0"},
    "v2": {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    if torch.cuda.is_available()
    else {
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        **INTERPRETER,
        # Inductor would take the shim's stand-in for a compiler.
        "TORCH_COMPILE_DISABLE": "1",
    },
}
