"""Hidden states as heads read them: the input of the output layer (LM head), whatever the model does before it.

Here as a configuration tells it and as transformers has it; as vLLM has it: engine/output_layer.py.
"""

import contextlib
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig, PreTrainedModel


def width(config: PretrainedConfig) -> int:
    """H, the width of the output layer's input, as far as a text model's configuration tells it.

    OPT's is not the hidden size where a projection lies between the two.
    """
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size


@contextlib.contextmanager
def inputs(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """While open, every call of the model adds the input [batch, rows, H] of its output layer to the list."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()
