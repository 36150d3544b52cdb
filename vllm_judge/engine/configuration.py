"""Hook of vLLM's configuration: the section `judge` is taken out, checked, and attached to what vLLM makes."""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from vllm_judge.config import SECTION, JudgeConfig, JudgeConfigError, read_speculative_config
from vllm_judge.engine import fit, support


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
        raise JudgeConfigError(_first_sentence(error)) from None
    finally:
        # The same arguments may be used again, and must then still name the judge.
        self.speculative_config = given
    if section is not None:
        fit.check_runner(vllm_config.use_v2_model_runner)
        judge = support.check(vllm_config, section)
        vllm_config.speculative_config.judge = judge
    return vllm_config


def _first_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(["speculative_config", *map(str, first["loc"])])
    return f"{field}: {first['msg']}, found {first['input']!r}: correct it."


def judge_config(speculative_config: Any) -> JudgeConfig | None:
    """The judge that an engine was configured with."""
    return getattr(speculative_config, SECTION, None)
