"""How far drafts are accepted, read from a results.json of `vllm-judge compare`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_judge.errors import JudgeError
from vllm_judge.projection.projection import Acceptance


def read_acceptance(results: Path, rule: str) -> Acceptance:
    """The acceptance of one rule and setting of a results.json.

    Raises:
        JudgeError: the file is another one, or not exactly one point of it is meant.
    """
    try:
        points = json.loads(results.read_text(encoding="utf-8"))["points"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise JudgeError(f"{results} is no results.json of `vllm-judge compare`.") from error
    found = {_name(point): point for point in points if rule in (point["rule"], _name(point))}
    if len(found) != 1:
        among = ", ".join(found or {_name(point): point for point in points})
        raise JudgeError(f"{rule!r} is not one setting of one rule in {results}: choose from {among}.")
    [(name, point)] = found.items()
    return Acceptance.measured(
        point["accepted_counts"], f"{name}, measured on {point['n']} prompts, {sum(point['accepted_counts'])} cycles"
    )


def _name(point: Mapping[str, Any]) -> str:
    setting = ",".join(f"{key}={value:g}" for key, value in point["setting"].items())
    return f"{point['rule']}:{setting}" if setting else point["rule"]
