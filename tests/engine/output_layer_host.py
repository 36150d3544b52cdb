"""In a process of its own, what heads read in real engines of many architectures: served, and extracted for training.

    output_layer_host.py MODELS OUTPUT NAME...

MODELS holds targets, heads named head-H, and a draft. For each name OUTPUT gets `NAME.safetensors`, of the N draft
tokens of all judged steps: `served_hidden` [N, H] and `served_evidence` [N, 4], the same `trained_`, and on V1
`returned` [N, ...], what the forward pass had returned; and `NAME.json`: the steps' texts, and how many drafts end
each. A name with a leading "!" or "?" is one of the malformed models below: `NAME.json` is then the sentence that
refuses it a judge, or its hidden states.
"""

import contextlib
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import architectures
import tiny
import torch
from environments import KV_CACHE_BYTES
from safetensors.torch import save_file
from vllm import LLM, ModelRegistry, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.llama import LlamaForCausalLM

from vllm_judge.engine import offline
from vllm_judge.errors import JudgeConfigError, JudgeError
from vllm_judge.kernels.reference import evidence
from vllm_judge.tokencourt.choices import Split
from vllm_judge.training.choices import Dtype
from vllm_judge.training.sequences import LabelledSequence
from vllm_judge.training.sources import VllmSource

V2 = os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "1"
OPTIONS = {
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 4,
    "kv_cache_memory_bytes": KV_CACHE_BYTES,
}
# So few that vLLM reads prompts in parts.
CHUNKED = {"max_num_batched_tokens": 16}
DRAFTS = 4


class OwnLogits(LlamaForCausalLM):
    """Logits past vLLM's LogitsProcessor."""

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden_states, self.lm_head.weight)


class Narrow(LlamaForCausalLM):
    """An output layer that reads half of the hidden state, of which the configuration says nothing."""

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.lm_head = ParallelLMHead(tiny.VOCAB, tiny.HIDDEN // 2)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.logits_processor(self.lm_head, hidden_states[:, : tiny.HIDDEN // 2])

    def load_weights(self, weights: Any) -> set[str]:
        return super().load_weights((name, w) for name, w in weights if name != "lm_head.weight") | {"lm_head.weight"}


class FewWords(LlamaForCausalLM):
    """Logits of a part of the vocabulary."""

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.logits_processor = LogitsProcessor(100)


MALFORMED = {model.__name__: model for model in (OwnLogits, Narrow, FewWords)}


@contextlib.contextmanager
def engine(models: Path, target: str, hidden_size: int, **options: Any) -> Any:
    speculative = {"method": "draft_model", "model": str(models / "draft"), "num_speculative_tokens": DRAFTS}
    speculative["judge"] = {"model": str(models / f"head-{hidden_size}")}
    llm = LLM(str(models / target), dtype="float32", speculative_config=speculative, **OPTIONS, **options)
    try:
        yield llm
    finally:
        offline.stop(llm)
        del llm
        cleanup_dist_env_and_memory()


Step = dict[str, Any]  # place of the first draft in the text; of N drafts: tokens, hidden, evidence, returned


def record_v1(runner: Any, steps: list[Step]) -> None:
    verifier, execute_model = runner.rejection_sampler, runner.execute_model
    score, process = verifier.judge.head.score, verifier.apply_logits_processors
    now: Step = {}

    def executing(*args: Any) -> Any:
        output = execute_model(*args)
        if runner.execute_model_state is not None:
            now["sampled_rows"] = runner.execute_model_state.sample_hidden_states
        return output

    def processing(logits: torch.Tensor, sampling_metadata: Any, metadata: Any) -> torch.Tensor:
        [request] = runner.requests.values()
        now["place"] = len(request.prompt_token_ids) + len(request.output_token_ids)
        now["tokens"], now["returned"] = (
            metadata.draft_token_ids.tolist(),
            now["sampled_rows"][metadata.target_logits_indices + 1],
        )
        return process(logits, sampling_metadata, metadata)

    def scoring(hidden: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        if len(hidden):
            steps.append({**now, "hidden": hidden.clone(), "evidence": read.clone()})
        return score(hidden, read)

    runner.execute_model, verifier.apply_logits_processors = executing, processing
    verifier.judge.head.score = scoring


def record_v2(runner: Any, steps: list[Step]) -> None:
    from vllm_judge.engine import v2

    verify = v2.judged_rejection_sample

    def verifying(*args: Any, raw_logits: Any, hidden: Any, hidden_rows: Any, **kwargs: Any) -> Any:
        drafts, places, local = args[2], args[4], args[7]
        if (local > 0).any():
            own = (local > 0).nonzero()[:, 0]
            step = {"place": int(places[own[0]]), "tokens": drafts[own].tolist(), "hidden": hidden[hidden_rows][own]}
            said = evidence(raw_logits[own - 1], drafts[own])
            steps.append({key: v.clone() if torch.is_tensor(v) else v for key, v in {**step, "evidence": said}.items()})
        return verify(*args, raw_logits=raw_logits, hidden=hidden, hidden_rows=hidden_rows, **kwargs)

    v2.judged_rejection_sample = verifying


def served(llm: LLM) -> tuple[list[Step], list[list[int]]]:
    """All judged steps of a request, and for each the text that was read: what was accepted before, and its drafts."""
    executor: Any = llm.llm_engine.model_executor
    steps: list[Step] = []
    (record_v2 if V2 else record_v1)(executor.driver_worker.worker.model_runner, steps)
    [prompt] = tiny.prompts(1, length=24)
    # With prompt logprobs, whose rows pass through the same layer.
    params = SamplingParams(temperature=0.0, max_tokens=12, prompt_logprobs=1, ignore_eos=True)
    [output] = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    text = [*prompt, *output.outputs[0].token_ids]
    return steps, [[*text[: step["place"]], *step["tokens"]] for step in steps]


def refusal(models: Path, name: str, judged: bool) -> str:
    ModelRegistry.register_model(name, MALFORMED[name])
    options = {"hf_overrides": {"architectures": [name]}}
    try:
        if judged:
            with engine(models, "llama", tiny.HIDDEN, **options):
                return "not refused"
        VllmSource(str(models / "llama"), Dtype.float32, {**OPTIONS, **options})
        return "not refused"
    except (JudgeConfigError, JudgeError) as error:
        return str(error)
    finally:
        cleanup_dist_env_and_memory()


def import_here(architecture: str) -> None:
    """Has vLLM look at a model's class in this process: by default it starts one of its own for each."""
    ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())


def main() -> None:
    models, output, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    import_here("LlamaForCausalLM")
    gc.freeze()  # vLLM collects garbage ten times an engine: not through all modules
    for name in names:
        if name[0] in "!?":
            (output / f"{name}.json").write_text(json.dumps(refusal(models, name[1:], judged=name[0] == "!")))
            continue
        for architecture in json.loads((models / name / "config.json").read_text())["architectures"]:
            import_here(architecture)
        hidden_size = architectures.PROJECTED if name == "opt_projected" else tiny.HIDDEN
        with engine(models, name, hidden_size) as llm:
            steps, texts = served(llm)
        sequences = []
        for i, (step, text) in enumerate(zip(steps, texts, strict=True)):
            rows = [*range(step["place"], len(text))]
            sequences.append(LabelledSequence(str(i), "", Split.train, text, 0, rows, [True] * len(rows)))
        source = VllmSource(str(models / name), Dtype.float32, {**OPTIONS, **CHUNKED})
        hidden, said, _ = source.read(sequences)
        offline.stop(source._llm)
        del source
        cleanup_dist_env_and_memory()
        columns = {"trained_hidden": hidden, "trained_evidence": said}
        columns |= {f"served_{key}": torch.cat([step[key] for step in steps]) for key in ("hidden", "evidence")}
        if not V2:
            columns["returned"] = torch.cat([step["returned"] for step in steps])
        save_file(columns, output / f"{name}.safetensors")
        (output / f"{name}.json").write_text(json.dumps([texts, [len(step["tokens"]) for step in steps]]))


if __name__ == "__main__":
    main()
