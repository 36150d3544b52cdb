"""Hook of vLLM's configuration: the section `judge` is taken out, checked, and attached to what vLLM makes."""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ArgsKwargs

from vllm_judge.config import read_speculative_config
from vllm_judge.engine import fit, support
from vllm_judge.errors import JudgeConfigError
from vllm_judge.head_files import shown

# In characters: of a message of vLLM's, as many sentences are kept.
MAX_REASON = 240


def create_engine_config(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Symptom: the key `judge` and paths are refused. Why: SpeculativeConfig forbids unknown keys. How: the section is
    taken out of a copy, vLLM makes its config, the section is checked against it and attached to the speculative
    config, with which it reaches every process. It is no part of vLLM's compile hash and need not be: the judge sits
    behind the final hidden states. Until: vLLM carries plugins' sections in its config (no issue upstream)."""
    given = self.speculative_config
    if given is None:
        return original(self, *args, **kwargs)
    config, section = read_speculative_config(given)
    if section is not None:
        fit.check_hooks()
    self.speculative_config = config or None
    try:
        vllm_config = original(self, *args, **kwargs)
    except ValidationError as error:
        if section is None or error.title != "SpeculativeConfig":
            raise
        raise JudgeConfigError(first_sentence(error)) from None
    finally:
        # The same arguments may be used again, and must then still name the judge.
        self.speculative_config = given
    if section is not None:
        fit.check_runner(vllm_config.use_v2_model_runner)
        judge = support.check(vllm_config, section)
        vllm_config.speculative_config.judge = judge
    return vllm_config


def first_sentence(error: ValidationError) -> str:
    """The first of pydantic's errors about a speculative config, without the objects that it prints with it."""
    first = error.errors()[0]
    if first["loc"]:
        field = ".".join(["speculative_config", *(str(p) if str(p).isidentifier() else shown(p) for p in first["loc"])])
        return f"{field}: {first['msg']}, found {shown(first['input'])}: correct it."
    reason = _shortened(first["msg"].removeprefix("Value error, "))
    # What vLLM makes a ModelConfig of, and how it tells a draft model's from the target's.
    given = first["input"].kwargs if isinstance(first["input"], ArgsKwargs) else None
    if given is not None and given.get("runner") == "draft":
        return f"speculative_config.model is {shown(given['model'])}, which vLLM cannot load as a draft model: {reason}"
    return f"speculative_config: {reason}"


def _shortened(message: str) -> str:
    """The whole sentences at the beginning of a message, without what vLLM lists behind them."""
    first, *others = message.strip().splitlines()[0].split(". ")
    shortened = first
    for sentence in others:
        if len(shortened) + len(sentence) > MAX_REASON:
            break
        shortened += f". {sentence}"
    return shortened.rstrip(".") + "."
