"""What a speculative config would run and what would be refused of it, by an engine's own checks, without an engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vllm
from pydantic import ValidationError
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from vllm_judge.config import JudgeSection, read_speculative_config
from vllm_judge.engine import fit, support
from vllm_judge.engine.configuration import first_sentence
from vllm_judge.errors import HeadError, JudgeConfigError
from vllm_judge.head import JudgeHead
from vllm_judge.hub import reason


@dataclass(frozen=True)
class Preview:
    """What would run.

    Attributes:
        target: the model that is served.
        vllm: the installed vLLM's version, and the kind of device that it runs on here.
        runner: the model runner that vLLM would choose, V1 or V2.
        speculative: vLLM's SpeculativeConfig; None where there is no drafter.
        section: the judge section.
        head, threshold: the judge head and the threshold that it would judge by; None where it is refused.
        doubts, refused: what an engine would warn of, and what it would not start with; a sentence each.
    """

    target: str
    vllm: str
    runner: str
    speculative: Any
    section: JudgeSection
    head: JudgeHead | None
    threshold: float | None
    doubts: list[str]
    refused: list[str]


def preview(source: str | Path, target: str | None, options: dict[str, Any]) -> Preview:
    """Configures what `vllm serve TARGET --speculative-config SOURCE` would run, and goes no further.

    Args:
        source: a head's folder or Hub repository, or a judge.json.
        target: folder or Hub repository; by default the one that the head was fitted on.
        options: further options of vLLM's `LLM`.

    Raises:
        JudgeConfigError: there is no such config, no judge in it, or vLLM cannot make a configuration of it.
    """
    config, section = read_speculative_config(source)
    if section is None:
        raise JudgeConfigError(f'{source} has no section judge: write "judge": {{"model": "."}} into it.')
    refused: list[str] = []

    def tried(check: Callable[..., Any], *args: Any) -> Any:
        try:
            return check(*args)
        except JudgeConfigError as error:
            refused.append(str(error))
            return None

    target = target or _fitted_on(section)
    tried(fit.check_hooks)
    vllm_config = _configured(target, config, options)
    tried(fit.check_runner, vllm_config.use_v2_model_runner)
    refused += support.refusals(vllm_config, section)
    head = tried(support.head_for, vllm_config, section)
    threshold = None if head is None else support.threshold(section, head)
    return Preview(
        target=target,
        vllm=f"{vllm.__version__} ({current_platform.device_type})",
        runner="V2" if vllm_config.use_v2_model_runner else "V1",
        speculative=vllm_config.speculative_config,
        section=section,
        head=head,
        threshold=threshold,
        doubts=[] if head is None else [*support.doubts(vllm_config, head), *_beyond_promise(head, threshold, config)],
        refused=refused,
    )


def promise(head: JudgeHead) -> str | None:
    """What a calibrated head was shown to keep."""
    return _calibration(head).get("promise")


def _calibration(head: JudgeHead) -> dict[str, Any]:
    found = head.provenance.get("calibration")
    return found if isinstance(found, dict) else {}


def _beyond_promise(head: JudgeHead, threshold: float | None, config: dict[str, Any]) -> Iterator[str]:
    calibration = _calibration(head)
    promised = {"threshold": head.threshold, "num_speculative_tokens": calibration.get("num_speculative_tokens")}
    found = {"threshold": threshold, "num_speculative_tokens": config.get("num_speculative_tokens")}
    for name, value in promised.items() if "promise" in calibration else ():
        if value != found[name]:
            yield f"the promise is for {name} {value}, and this config has {found[name]}: calibrate with it, or use it."


def _fitted_on(section: JudgeSection) -> str:
    try:
        target = JudgeHead.from_pretrained(section.model, revision=section.revision).target_model
    except HeadError as error:
        raise JudgeConfigError(f"judge.model: {error}") from None
    if target is None:
        raise JudgeConfigError(
            f"the head in {section.model} does not say which target it was fitted on: name the target."
        )
    return target


def _configured(target: str, config: dict[str, Any], options: dict[str, Any]) -> Any:
    """vLLM's configuration without a judge, which every check is made against."""
    try:
        return EngineArgs(**{**options, "model": target, "speculative_config": config or None}).create_engine_config()
    except ValidationError as error:
        if error.title == "SpeculativeConfig":
            raise JudgeConfigError(first_sentence(error)) from None
        said = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
        raise JudgeConfigError(f"vLLM makes no configuration for {target}: {said}.") from None
    except Exception as error:  # what vLLM raises of a model that it cannot find, read or run has no end
        raise JudgeConfigError(f"vLLM makes no configuration for {target}: {reason(error)}") from None
