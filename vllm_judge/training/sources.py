"""Where hidden states come from: vLLM's pooling runner, or transformers on machines without vLLM."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import AutoModel

from vllm_judge.errors import JudgeError
from vllm_judge.training.choices import Dtype, SourceName

OURS = {"model", "dtype", "runner", "convert", "pooler_config"}


class Source(Protocol):
    """A target that gives its hidden states.

    Attributes:
        dtype: what the target computes in.
    """

    dtype: torch.dtype

    def hidden_states(self, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
        """For each sequence of T token ids [T, H] fp32: every token's own row after the final norm."""


class VllmSource:
    """The target in vLLM's pooling runner, which gives the tensor that `compute_logits` would get.

    Its tensor and pipeline parallelism are options of the engine, so a target of any size will do.
    """

    def __init__(self, target: str, dtype: Dtype, engine: dict[str, Any]):
        """`engine`: more options of vLLM's `LLM`.

        Raises:
            JudgeError: vLLM is not installed, or an option is given that is set here.
        """
        try:
            from vllm.config import PoolerConfig

            from vllm_judge.engine import offline
        except ImportError:
            raise JudgeError("vLLM is not installed: install it, or use --source transformers.") from None
        if ours := sorted(OURS & engine.keys()):
            raise JudgeError(f"--engine must leave out {', '.join(ours)}: the command sets that itself.")
        # Activation is normalisation here, and a head reads the state as it is.
        pooler = PoolerConfig(task="token_embed", use_activation=False)
        self._llm = offline.start(
            model=target, dtype=dtype.value, runner="pooling", convert="embed", pooler_config=pooler, **engine
        )
        self.dtype: Any = self._llm.model_config.dtype  # resolved by now

    def hidden_states(self, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
        prompts: Any = [{"prompt_token_ids": ids} for ids in sequences]
        outputs = self._llm.encode(prompts, pooling_task="token_embed", use_tqdm=False)
        return [output.outputs.data.float().cpu() for output in outputs]


class TransformersSource:
    """The target in transformers, one sequence at a time, on a GPU where there is one."""

    def __init__(self, target: str, dtype: Dtype):
        self._model = AutoModel.from_pretrained(target, dtype=dtype.value, use_safetensors=True).eval()
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = self._model.dtype

    @torch.inference_mode()
    def hidden_states(self, sequences: Sequence[list[int]]) -> list[torch.Tensor]:
        return [self._one(ids) for ids in sequences]

    def _one(self, ids: list[int]) -> torch.Tensor:
        batch = torch.tensor([ids], device=self._model.device)
        return self._model(input_ids=batch, use_cache=False).last_hidden_state[0].float().cpu()


def open_source(name: SourceName, target: str, dtype: Dtype, engine: dict[str, Any]) -> Source:
    """Loads the target.

    Raises:
        JudgeError: vLLM is asked for and not installed, or the target cannot be loaded.
    """
    if name == SourceName.vllm:
        return VllmSource(target, dtype, engine)
    try:
        return TransformersSource(target, dtype)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the target {target} cannot be loaded: {str(error).splitlines()[0]}") from None
