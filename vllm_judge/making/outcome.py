"""What was made, in a paragraph: what the head gains, what it costs, and the command that serves it."""

from pathlib import Path
from typing import Any

from vllm_judge.head import JudgeHead


def paragraph(folder: Path, target: str) -> str:
    """Of a head's folder as `tune` writes it."""
    head = JudgeHead.from_pretrained(folder)
    calibration, speed = head.provenance["calibration"], head.provenance["speed"]
    point: Any = next(one for one in calibration["points"] if one["setting"].get("threshold") == head.threshold)
    accuracy, minus = _percent(point["accuracy"]), {**point["minus_strict"], "low": calibration["lower_end"]}
    return (
        f"{folder.name} at threshold {head.threshold:g}: on {point['n']} held-out questions "
        f"{accuracy} % of the answers are right, {_percent(minus, '+.1f')} points beside strict verification (95% "
        f"intervals, paired), and {point['accepted_per_cycle']:.2f} drafts are "
        f"accepted per cycle. On this machine {'; '.join(map(_gain, speed['levels']))} (medians of {speed['rounds']} "
        f"rounds of {speed['n']} questions, and ranges). {_advice(speed['levels'])}:\n"
        f"vllm serve {target} --speculative-config {folder}"
    )


def _gain(level: dict[str, Any]) -> str:
    judged, strict = level["judged"], level["strict"]
    return (
        f"it makes {judged['tokens_per_s']:.0f} tokens/s with {judged['drafts']} drafts at {level['concurrency']} at a "
        f"time, {_ratio(level['over_plain'])} times the target alone and {_ratio(level['over_strict'])} times strict "
        f"verification with its best number, {strict['drafts']}"
    )


def _advice(levels: list[dict[str, Any]]) -> str:
    slower = [
        str(level["concurrency"])
        for level in levels
        if min(level["over_plain"]["median"], level["over_strict"]["median"]) < 1.0
    ]
    if not slower:
        return "Serve it"
    return (
        f"At {' and '.join(slower)} at a time it is slower here than the better of the two: serve that instead. The "
        "judge's command"
    )


def _percent(one: dict[str, float], form: str = ".1f") -> str:
    value, low, high = (f"{100 * one[name]:{form}}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _ratio(one: dict[str, float]) -> str:
    return f"{one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
