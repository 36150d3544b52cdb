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

from vllm_judge.config import JudgeConfigError


class OutputLayer:
    """The output layer of one model: a drafter's own and those of other models are not seen.

    Sampling, prompt logprobs and vLLM's dummy runs all pass through it; `inputs` bounds the calls that are meant. It
    runs outside of CUDA graphs and compiled code.
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
        self._seen = seen = []
        try:
            yield seen
        finally:
            self._seen = None


@torch.inference_mode()
def check(runner: Any, layer: OutputLayer) -> None:
    """Checks with a pass over dummy tokens, when all is loaded, that the judge can read this model.

    A configuration does not tell what arrives at the output layer; without this the first judged step would fail.

    Args:
        runner: a judged model runner, V1 or V2, on its last pipeline rank.
        layer: of the runner's model.

    Raises:
        JudgeConfigError: the logits are not those of one output layer, or its input or output has another width.
    """
    _, rows = runner._dummy_run(getattr(runner, "uniform_decode_query_len", 1), uniform_decode=True)
    model = runner.get_model()
    with layer.inputs() as seen:
        logits = model.compute_logits(rows)
    name, judge = type(model).__name__, runner.rejection_sampler.judge
    hidden_size, vocab_size = judge.head.hidden_size, len(judge.protected)
    if len(seen) != 1 or len(seen[0]) != len(rows):
        raise JudgeConfigError(
            f"judge needs a model whose logits are those of one output layer (vLLM's LogitsProcessor), and {name}'s "
            "are made in another way: remove judge."
        )
    if seen[0].shape[-1] != hidden_size:
        raise JudgeConfigError(
            f"judge.model was trained for hidden size {hidden_size}, but what {name}'s output layer reads is "
            f"{seen[0].shape[-1]} wide: use a head trained on this target."
        )
    # With tensor parallelism some platforms give logits to one rank only.
    if logits is not None and logits.shape[-1] != vocab_size:
        raise JudgeConfigError(
            f"judge needs logits of the whole vocabulary of {vocab_size} tokens, and {name} gives {logits.shape[-1]}: "
            "remove judge."
        )
