"""What was made, in a paragraph: what the head gains, what it costs, and the command that serves it."""

from pathlib import Path
from typing import Any

from vllm_judge.head import JudgeHead


def paragraph(folder: Path, target: str) -> str:
    """Of a head's folder as `tune` writes it."""
    head = JudgeHead.from_pretrained(folder)
    calibration, speed = head.provenance["calibration"], head.provenance["speed"]
    point: Any = next(one for one in calibration["points"] if one["setting"].get("threshold") == head.threshold)
    accuracy, minus = point["accuracy"], point["minus_strict"]
    gains = [
        f"at {level['concurrency']} at a time {level['judged']['drafts']} drafts, {level['judged']['tokens_per_s']:.0f} "
        f"tokens/s, {_ratio(level['over_plain'])} times the target alone and {_ratio(level['over_strict'])} times strict "
        f"verification with its best number, {level['strict']['drafts']}"
        for level in speed["levels"]
    ]
    return (
        f"{folder.name}: a judge for {target}, threshold {head.threshold:g}. On {point['n']} held-out questions it is right "
        f"in {100 * accuracy['value']:.1f}% [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}], "
        f"{100 * minus['value']:+.1f} points [{100 * minus['low']:+.1f}, {100 * minus['high']:+.1f}] beside strict "
        f"verification (95%, paired), with {point['accepted_per_cycle']:.2f} drafts accepted per cycle. On this machine: "
        f"{'; '.join(gains)} (medians of {speed['rounds']} rounds of {speed['n']} questions, and their range). Serve it:\n"
        f"vllm serve {target} --speculative-config {folder}"
    )


def _ratio(one: dict[str, float]) -> str:
    return f"{one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
