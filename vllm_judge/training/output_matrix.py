"""A target's output layer (LM head) without the target, where it is a matrix and nothing more."""

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig

from vllm_judge import hub
from vllm_judge.errors import JudgeError

# Models of which vLLM multiplies the state behind the final norm by the matrix, and does no more.
BARE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# What could be done besides, by keys of a configuration, and the values that leave it undone.
BESIDES = {
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "final_logit_softcapping": (None,),
    "quantization_config": (None,),
}
UNTIED, TIED = "lm_head.weight", "model.embed_tokens.weight"


def output_matrix(target: str) -> torch.Tensor:
    """[V, H] of a folder or Hub repository, in the checkpoint's dtype.

    Raises:
        JudgeError: the output layer is more than a matrix, or it cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(target)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the target {target} cannot be loaded: {str(error).splitlines()[0]}") from None
    [name] = config.architectures or ["a model without a name"]
    more = [key for key, values in BESIDES.items() if getattr(config, key, None) not in values]
    if name not in BARE or more:
        raise JudgeError(
            f"a pooling server does not give the logits of {name}{' with ' + ', '.join(more) if more else ''}, and "
            "they cannot be told from its states: leave out --url, and vLLM in this process reads them itself."
        )
    key = TIED if config.tie_word_embeddings else UNTIED
    try:
        folder = (
            Path(target) if Path(target).is_dir() else Path(snapshot_download(target, allow_patterns="*.safetensors"))
        )
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                if key in tensors.keys():  # noqa: SIM118
                    return tensors.get_tensor(key)
    except Exception as error:  # what files and networks can do has no end
        raise JudgeError(f"the output layer of {target} cannot be read: {hub.reason(error)}") from None
    raise JudgeError(f"{target} holds no {key} in safetensors: leave out --url, and vLLM in this process reads it.")
