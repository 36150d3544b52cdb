"""The target's output layer, read from its checkpoint: the pooling runner has no logits, and evidence needs them."""

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig

from vllm_judge.errors import JudgeError
from vllm_judge.kernels.reference import evidence

# Layers of their own, and the embeddings that are the output layer where a config ties the two.
OWN = ("lm_head.weight",)
TIED = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
BIAS = ("lm_head.bias",)
# What some families do to logits, or to the hidden state before them, and this output layer does not: Gemma 2, Cohere,
# Granite, Falcon H1, Grok, MiniCPM.
QUIRKS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier_scale",
    "dim_model_base",
)
ROWS = 512  # tokens whose logits exist at a time


class OutputHead:
    """Logits of a target as its serving engine computes them.

    Attributes:
        weight: [V, H]; logits are computed in its dtype, which should be what the target computes in.
        bias: [V], for targets that have one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        self.weight, self.bias = weight, bias

    def to(self, dtype: torch.dtype) -> "OutputHead":
        """The same layer in another precision."""
        return OutputHead(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    @classmethod
    def load(cls, target: str, config: PretrainedConfig) -> "OutputHead":
        """Reads the layer of a target, in the precision of its checkpoint.

        Args:
            target: a folder or a Hub repository.
            config: the target's.

        Raises:
            JudgeError: the target treats its logits in a way of its own, its layer is quantised, or the checkpoint
                holds no such layer or no safetensors at all.
        """
        text = config.get_text_config()
        _refuse_quirks(target, text)
        weight = _read(target, TIED if text.tie_word_embeddings else OWN)
        if weight is None:
            raise JudgeError(
                f"the checkpoint {target} holds no output layer that is known here "
                f"({', '.join(TIED if text.tie_word_embeddings else OWN)})."
            )
        if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise JudgeError(
                f"the output layer of {target} is quantised ({weight.dtype}), and evidence needs it whole."
            )
        bias = _read(target, BIAS)
        # Rows beyond the vocabulary are padding, which vLLM cuts off as well.
        kept = slice(text.vocab_size)
        return cls(weight[kept], None if bias is None else bias[kept])

    @torch.inference_mode()
    def evidence(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What the target's own distribution said of tokens, see `kernels.reference.evidence`.

        Args:
            hidden: [N, H] fp32: the rows BEFORE the tokens.
            tokens: [N] int64.

        Returns:
            [N, 4] fp32.
        """
        columns = []
        for rows, ids in zip(hidden.split(ROWS), tokens.split(ROWS), strict=True):
            logits = torch.nn.functional.linear(rows.to(self.weight.dtype), self.weight, self.bias)
            columns.append(evidence(logits, ids))
        return torch.cat(columns)


def _refuse_quirks(target: str, config: PretrainedConfig) -> None:
    for name in QUIRKS:
        value = getattr(config, name, None)
        if value is not None and value != 1:
            raise JudgeError(
                f"{target} treats its logits in a way of its own ({name} is {value}), "
                "and evidence cannot be computed for it."
            )


def _read(target: str, suffixes: tuple[str, ...]) -> torch.Tensor | None:
    """The one tensor of a checkpoint whose name ends so."""
    folder = Path(target) if Path(target).is_dir() else Path(snapshot_download(target, allow_patterns="*.safetensors"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise JudgeError(f"{target} holds no safetensors weights, and no other kind is read.")
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping: it has keys and nothing else
                    if name.endswith(suffixes):
                        return tensors.get_tensor(name)
        except SafetensorError as error:
            raise JudgeError(f"{file} is damaged: {error}.") from None
    return None
