"""In a process of its own, every drafter in real engines: what each step verified, and what came of it.

    drafter_host.py MODELS OUTPUT CELL...

A cell is "DRAFTER/FEATURE", both as in drafters.py and below; OUTPUT gets `NUMBER.json` for the NUMBERth. For a phase:
`texts`, `counts` (what the phase added to vLLM's counters) and `steps`, the drafts [request, place of the first in the
text, tokens...] that were verified. An engine that does not start gives `error`, what vLLM said.
"""

import contextlib
import functools
import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drafters
import host
import torch
from environments import KV_CACHE_BYTES
from vllm import LLM
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from vllm_judge.engine import offline
from vllm_judge.engine.plugin import register

V2 = os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
OPTIONS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": KV_CACHE_BYTES,
    "disable_log_stats": False,
}
PROMPTS = drafters.prompts()
GREEDY = {"temperature": 0.0, "max_tokens": drafters.LENGTH}
SEEDED = {**GREEDY, "temperature": 0.9, "seed": 7}

Step = list[int]


@contextlib.contextmanager
def engine(models: Path, name: str, judged: bool, asynchronous: bool = False, **speculative: Any) -> Iterator[LLM]:
    config = {**drafters.speculative_config(models, name), **speculative}
    if judged:
        config["judge"] = {"model": str(models / "random")}
    create = EngineArgs.create_engine_config
    if asynchronous:
        host.schedule_asynchronously()
    try:
        llm = LLM(str(models / drafters.DRAFTERS[name].target), speculative_config=config, **OPTIONS)
    except BaseException:
        cleanup_dist_env_and_memory()
        raise
    finally:
        EngineArgs.create_engine_config = create
    try:
        yield llm
    finally:
        offline.stop(llm)
        del llm
        cleanup_dist_env_and_memory()


def runner_of(llm: LLM) -> Any:
    executor: Any = llm.llm_engine.model_executor
    return executor.driver_worker.worker.model_runner


def drafts_v1(runner: Any, state: Any) -> Iterator[tuple[str, int, list[int]]]:
    """Of the step that is about to be verified: a request, how long its text is, and its drafts."""
    if state.spec_decode_metadata is None:
        return
    tokens = state.spec_decode_metadata.draft_token_ids.tolist()
    for name, count in zip(runner.input_batch.req_ids, state.spec_decode_metadata.num_draft_tokens, strict=True):
        yield name, runner.requests[name].num_tokens, tokens[:count]
        tokens = tokens[count:]


def drafts_v2(runner: Any, state: Any) -> Iterator[tuple[str, int, list[int]]]:
    batch = state.input_batch
    rows = batch.logits_indices
    tokens, places, ends = batch.input_ids[rows].tolist(), batch.positions[rows].tolist(), batch.cu_num_logits.tolist()
    for name, start, end in zip(batch.req_ids, ends, ends[1:], strict=False):
        yield name, places[start] + 1, tokens[start + 1 : end]


@contextlib.contextmanager
def recorded(runner: Any) -> Iterator[list[tuple[str, int, list[int]]]]:
    """All drafts that are verified while it is open."""
    steps: list[tuple[str, int, list[int]]] = []
    sample_tokens = runner.sample_tokens

    def recording(grammar_output: Any) -> Any:
        if runner.execute_model_state is not None:
            found = (drafts_v2 if V2 else drafts_v1)(runner, runner.execute_model_state)
            steps.extend(step for step in found if step[2])
        return sample_tokens(grammar_output)

    runner.sample_tokens = recording
    try:
        yield steps
    finally:
        runner.sample_tokens = sample_tokens


def phase(llm: LLM, dials: list[dict[str, Any]], record: bool = True) -> dict[str, Any]:
    """One batch, each request with its own dial."""
    params = [host.sampling_params({**GREEDY, "extra_args": dial}) for dial in dials]
    before = host.metrics(llm)
    with recorded(runner_of(llm)) if record else contextlib.nullcontext([]) as steps:
        outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
    after = host.metrics(llm)
    place = {output.request_id: i for i, output in enumerate(outputs)}  # vLLM adds eight digits to the name
    return {
        "texts": [list(output.outputs[0].token_ids) for output in outputs],
        "counts": {name: after[name] - before[name] for name in after},
        "steps": [[place[name.rpartition("-")[0]], start, *tokens] for name, start, tokens in steps],
    }


def texts(llm: LLM) -> list[list[list[int]]]:
    """Greedy and sampled, one request a batch: then two engines take the very same steps."""
    return [
        [host.generate(llm, [prompt], [params])[0]["tokens"] for prompt in PROMPTS[:2]] for params in (GREEDY, SEEDED)
    ]


@contextlib.contextmanager
@torch.inference_mode()
def rejecting(llm: LLM) -> Iterator[None]:
    """While open, the engine's head accepts nothing."""
    head = runner_of(llm).rejection_sampler.judge.head
    kept = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    nothing = {name: torch.zeros_like(tensor) for name, tensor in kept.items()}
    head.load_state_dict(nothing | {"bias": torch.full_like(kept["bias"], -100.0)})
    try:
        yield
    finally:
        head.load_state_dict(kept)


def verification(models: Path, name: str) -> dict[str, Any]:
    with engine(models, name, judged=False) as llm:
        strict = texts(llm)
    with engine(models, name, judged=True) as llm:
        with rejecting(llm):  # first, since some drafters learn from what was said before
            rejected = texts(llm)
        phases = {dial: phase(llm, settings) for dial, settings in drafters.DIALS.items()}
    return {"strict": strict, "rejecting": rejected, **phases}


def asynchronous(models: Path, name: str) -> dict[str, Any]:
    with engine(models, name, judged=True, asynchronous=True) as llm:
        return {"accept all": phase(llm, drafters.DIALS["accept all"], record=False)}


def by_batch_size(models: Path, name: str) -> dict[str, Any]:
    options = {"num_speculative_tokens_per_batch_size": [(1, 2, drafters.NUM_DRAFTS), (3, 4, 2)]}
    with engine(models, name, judged=True, **options) as llm:
        return {dial: phase(llm, drafters.DIALS[dial]) for dial in ("default", "accept all")}


def replace_kernels_once() -> None:
    """On CPU each engine looks for Triton kernels to replace in all modules that are loaded. The first has replaced
    them all; a later one would stumble over llvmlite, which the n-gram drafter has loaded."""
    if current_platform.is_cpu():
        current_platform.register_triton_kernel_overrides = functools.cache(
            current_platform.register_triton_kernel_overrides
        )


FEATURES = {
    "verification": verification,
    "asynchronous scheduling": asynchronous,
    "drafts by batch size": by_batch_size,
}


def main() -> None:
    models, output, cells = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    register()
    replace_kernels_once()
    gc.freeze()  # vLLM collects garbage ten times an engine: not through all modules
    for number, cell in enumerate(cells):
        name, _, feature = cell.rpartition("/")
        try:
            found = FEATURES[feature](models, name)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        (output / f"{number}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
