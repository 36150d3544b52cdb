"""What answers amount to: a point for each rule and setting, the Pareto front, and results.json."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vllm_judge.comparison.answers import Answer, Contender
from vllm_judge.measuring.statistics import Estimate, accuracy, mcnemar, paired_difference, ratio

DEFINITIONS = {
    "accuracy": "share of prompts whose answer is right, with Wilson's 95% interval",
    "minus_strict": "accuracy minus strict verification's on the same prompts, with a 95% bootstrap over prompts; "
    "strict verification's text is the target's own",
    "mcnemar_p": "p value of McNemar's exact test that the rule and strict verification are right equally often",
    "tokens_per_forward": "generated tokens by target passes (cycles, and one for each prompt), all prompts together, "
    "with a 95% bootstrap over prompts",
    "accepted_per_cycle": "mean number of drafts that a target verification accepts, its own token not counted",
    "judge_only_share": "share of the accepted drafts that the strict test alone would have rejected",
    "accepted_counts": "number of cycles that accepted 0, 1, ... M drafts",
    "on_front": "no other point is at least as accurate and at least as fast, and better in one of the two",
}


@dataclass(frozen=True)
class Point:
    """A rule and a setting, measured; see DEFINITIONS."""

    rule: str
    setting: dict[str, float]
    n: int
    accuracy: Estimate
    minus_strict: Estimate
    mcnemar_p: float
    tokens_per_forward: Estimate
    accepted_per_cycle: float
    judge_only_share: float
    accepted_counts: list[int]
    on_front: bool = False


def summarise(
    chosen: Sequence[Contender], answers: Sequence[Sequence[Answer]], num_speculative_tokens: int
) -> list[Point]:
    """A point for each contender, whose answers are to the same prompts; the first contender is the baseline."""
    baseline = [answer.right for answer in answers[0]]
    points = [
        _point(contender, given, baseline, num_speculative_tokens)
        for contender, given in zip(chosen, answers, strict=True)
    ]
    return with_front(points)


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points with `on_front` as it is among these."""
    front = pareto_front([(point.accuracy.value, point.tokens_per_forward.value) for point in points])
    return [replace(point, on_front=on_front) for point, on_front in zip(points, front, strict=True)]


def _point(contender: Contender, answers: Sequence[Answer], baseline: Sequence[bool], longest: int) -> Point:
    right = [answer.right for answer in answers]
    cycles = [accepted for answer in answers for accepted in answer.cycles]
    counts = Counter(cycles)
    return Point(
        rule=contender.rule.name,
        setting=dict(contender.setting),
        n=len(answers),
        accuracy=accuracy(right),
        minus_strict=paired_difference(right, baseline),
        mcnemar_p=mcnemar(right, baseline),
        tokens_per_forward=ratio([a.tokens for a in answers], [1 + len(a.cycles) for a in answers]),
        accepted_per_cycle=sum(cycles) / len(cycles) if cycles else 0.0,
        judge_only_share=sum(a.judge_only for a in answers) / max(1, sum(cycles)),
        accepted_counts=[counts[accepted] for accepted in range(longest + 1)],
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one dominates: none is as high in both coordinates and higher in one."""
    return [not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]


def write_results(path: Path, points: Sequence[Point], sources: Mapping[str, str], about: Mapping[str, Any]) -> None:
    """Writes results.json: what was measured and how, each number defined.

    Args:
        sources: of each rule.
        about: settings, machine and command, plain JSON values.
    """
    report = {**about, "definitions": DEFINITIONS, "rules": sources, "points": [asdict(point) for point in points]}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
