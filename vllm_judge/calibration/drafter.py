"""The drafter that is measured: vLLM's speculative config without a judge."""

from typing import Any

from vllm_judge.calibration.choices import NUM_DRAFTS
from vllm_judge.config import read_speculative_config
from vllm_judge.errors import JudgeError


def drafter(draft: str | None, speculative_config: str | dict[str, Any] | None, number: int | None) -> dict[str, Any]:
    """vLLM's own keys, `num_speculative_tokens` always among them.

    Args:
        draft: folder or Hub repository of a draft model; or, in its place:
        speculative_config: whatever names one (see `read_speculative_config`), or the dict itself.
        number: draft tokens per cycle; None: the config's, of a draft model NUM_DRAFTS.

    Raises:
        JudgeError: both or none is given, there is no such config, it has a judge, or nothing says how many drafts.
    """
    if (draft is None) == (speculative_config is None):
        raise JudgeError("give either --draft or --speculative-config: what drafts?")
    if draft is not None:
        return {"method": "draft_model", "model": draft, "num_speculative_tokens": number or NUM_DRAFTS}
    assert speculative_config is not None
    config, section = read_speculative_config(speculative_config)
    if section is not None:
        raise JudgeError("--speculative-config has a section judge: leave it out, each --head is put there in turn.")
    if number is not None:
        config["num_speculative_tokens"] = number
    if not isinstance(config.get("num_speculative_tokens"), int):
        raise JudgeError(
            "--speculative-config does not say num_speculative_tokens, and the promise is for one number of drafts: "
            "write it there, or give --num-speculative-tokens."
        )
    return config


def draft_model(config: dict[str, Any]) -> str:
    """The draft model of a config that says nothing else, which is all that plain transformers can run.

    Raises:
        JudgeError: the config says something else.
    """
    if config.keys() != {"method", "model", "num_speculative_tokens"} or config["method"] != "draft_model":
        raise JudgeError("--source transformers decodes with a plain draft model only: give --draft, or leave it out.")
    return str(config["model"])
