"""A target and its draft, loaded, checked against each other, ready to be compared under rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vllm_judge import output_layer
from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.decoding.batch import Decoded, Request
from vllm_judge.decoding.decoder import decode_under
from vllm_judge.errors import HeadError, JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.special_tokens import special_token_ids
from vllm_judge.threads import set_threads
from vllm_judge.tokencourt.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Sampling:
    """How texts are made: M drafts per cycle, the longest text, temperature (0 is greedy), mass of the nucleus."""

    num_speculative_tokens: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Pair:
    """A target, its draft, and the tokenizer they share."""

    target: PreTrainedModel
    draft: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, target: str, draft: str, dtype: torch.dtype | str, device_map: str | None = None) -> "Pair":
        """Loads both, onto a GPU where there is one.

        Args:
            target, draft: folders or Hub repositories.
            dtype: as `from_pretrained` takes it.
            device_map: where the target's layers go, see `load_model`.

        Raises:
            JudgeError: there is no such model, or their tokenizers differ.
        """
        tokenizer = load_tokenizer(target, "--target")
        if load_tokenizer(draft, "--draft").get_vocab() != tokenizer.get_vocab():
            raise JudgeError(f"{target} and {draft} have different vocabularies: a draft must use its target's tokens.")
        pair = cls(load_model(target, dtype, device_map), load_model(draft, dtype), tokenizer)
        set_threads(pair.target, pair.draft)
        return pair

    def load_head(self, name: str) -> JudgeHead:
        """A judge head from a folder or Hub repository, on the target's device, see `load_head`."""
        return load_head(name, self.target.config).to(self.target.device)

    def decode(
        self, requests: Sequence[Request], how: Sampling, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[int, list[Decoded]]]:
        """Each request's index and one generation a rule, see `decode_under`."""
        end = self.target.generation_config.eos_token_id
        ends = [] if end is None else [end] if isinstance(end, int) else end
        return decode_under(
            self.target,
            self.draft,
            requests,
            num_speculative_tokens=how.num_speculative_tokens,
            max_new_tokens=how.max_new_tokens,
            eos_token_ids={*ends, self.tokenizer.eos_token_id} - {None},
            protected_token_ids=special_token_ids(self.tokenizer),
            temperature=how.temperature,
            top_p=how.top_p,
            batch_size=batch_size,
        )


def load_model(name: str, dtype: torch.dtype | str, device_map: str | None = None) -> PreTrainedModel:
    """A model from a folder or Hub repository, on a GPU where there is one.

    Args:
        dtype: as `from_pretrained` takes it.
        device_map: where its layers go, as `from_pretrained` takes it, such as "auto" for all GPUs.

    Raises:
        JudgeError: there is no such model, or it cannot be put there.
    """
    if device_map is not None and find_spec("accelerate") is None:
        raise JudgeError(f"the device map {device_map!r} needs the package accelerate: install it.")
    try:
        config = AutoConfig.from_pretrained(name)
        # Faster attentions leave the soft cap of Gemma 2 out.
        attention = "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
        options = {"dtype": dtype, "device_map": device_map, "attn_implementation": attention}
        model = AutoModelForCausalLM.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    model = model.eval()
    return model if device_map is not None else model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_head(name: str, target: PretrainedConfig) -> JudgeHead:
    """A judge head from a folder or Hub repository.

    Raises:
        HeadError: it cannot be loaded, or it is for another hidden size than the target's.
    """
    head = JudgeHead.from_pretrained(name)
    width = output_layer.width(target.get_text_config())
    if head.hidden_size != width:
        raise HeadError(f"the judge head in {name} reads {head.hidden_size} numbers, the target has {width}.")
    return head


def default_dtype() -> torch.dtype | str:
    """A checkpoint's own precision on a GPU, float32 on a CPU."""
    return "auto" if torch.cuda.is_available() else torch.float32
