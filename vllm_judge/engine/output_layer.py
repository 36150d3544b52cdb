"""Hidden states as heads read them: the input of vLLM's output layer (LM head), in serving and in training alike.

What a model's forward pass returns is not always that: MiMo, Step-3.5 and Kimi apply the final norm in
`compute_logits`, behind it. All of vLLM's models end in one place: `LogitsProcessor.forward(lm_head, hidden_states)`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from vllm_judge.errors import JudgeConfigError


class OutputLayer:
    """The output layer of one model; a drafter's own is not seen.

    Symptom: the judge reads another tensor than the one that makes the logits. Why: vLLM hands on what the forward pass
    returned. How: a PyTorch hook on the model's LogitsProcessor, which runs outside of CUDA graphs and compiled code;
    sampling, prompt logprobs and dummy runs all pass there, so `inputs` bounds the calls that are meant. Until: vLLM
    hands verifiers the output layer's input.
    """

    def __init__(self, model: torch.nn.Module):
        self._seen: list[torch.Tensor] | None = None
        for module in model.modules():
            if isinstance(module, LogitsProcessor | LogitsProcessorWithLoRA):
                module.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._seen is not None:
            self._seen.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[1])

    @contextlib.contextmanager
    def inputs(self) -> Iterator[list[torch.Tensor]]:
        """While open, every call of the layer adds its input [rows, H] to the list."""
        seen: list[torch.Tensor] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None


@torch.inference_mode()
def dummy_rows(runner: Any) -> torch.Tensor:
    """What the forward pass of a model runner, V1 or V2, returns for a few dummy tokens; to be called by all ranks."""
    return runner._dummy_run(getattr(runner, "uniform_decode_query_len", 1), uniform_decode=True)[1]


@torch.inference_mode()
def read_once(model: Any, layer: OutputLayer, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The input of the output layer and the logits of rows; no logits where another tensor-parallel rank gets them.

    Raises:
        JudgeConfigError: the logits are not those of one output layer.
    """
    with layer.inputs() as seen:
        logits = model.compute_logits(rows)
    if len(seen) != 1 or len(seen[0]) != len(rows):
        raise JudgeConfigError(
            f"judge needs a model whose logits are those of one output layer (vLLM's LogitsProcessor), and "
            f"{type(model).__name__}'s are made in another way: no head can read it."
        )
    return seen[0], logits


def check(runner: Any, layer: OutputLayer) -> None:
    """Checks with a pass over dummy tokens, when all is loaded, that the judge can read this model.

    A configuration does not tell what arrives at the output layer; without this the first judged step would fail.

    Args:
        runner: a judged model runner, V1 or V2, on its last pipeline rank.
        layer: of the runner's model.

    Raises:
        JudgeConfigError: the logits are not those of one output layer, or its input or output has another width.
    """
    model, judge = runner.get_model(), runner.rejection_sampler.judge
    hidden, logits = read_once(model, layer, dummy_rows(runner))
    name, hidden_size, vocab_size = type(model).__name__, judge.head.hidden_size, len(judge.protected)
    if hidden.shape[-1] != hidden_size:
        raise JudgeConfigError(
            f"judge.model was trained for hidden size {hidden_size}, but what {name}'s output layer reads is "
            f"{hidden.shape[-1]} wide: use a head trained on this target."
        )
    if logits is not None and logits.shape[-1] != vocab_size:
        raise JudgeConfigError(
            f"judge needs logits of the whole vocabulary of {vocab_size} tokens, and {name} gives {logits.shape[-1]}: "
            "remove judge."
        )
