"""From verdicts on pairs of answers to wins, ties and losses; mt_bench.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_judge.errors import JudgeError
from vllm_judge.measuring.statistics import ratio
from vllm_judge.quality.mt_bench.answers import Answered
from vllm_judge.quality.mt_bench.judge import ORDERS, Pair, Side, Verdict
from vllm_judge.quality.mt_bench.scores import ALL, DEFINITIONS, Comparison
from vllm_judge.quality.scores import SPEED_DEFINITIONS
from vllm_judge.quality.summary import speed


@dataclass(frozen=True)
class _Outcome:
    """Of a pair: 1 for a win, 0.5 for a tie, 0 for a loss, None where a reply was refused; whether the orders agree."""

    pair: Pair
    score: float | None
    agreed: bool | None


def summarise(compared: Sequence[Pair], verdicts: Sequence[Verdict]) -> list[Comparison]:
    """Of every way of judging: all questions, then each category in the order of the questions.

    Raises:
        JudgeError: no reply of the judge model could be used: ties of identical answers would look like a result.
    """
    by_order = {(one.question_id, one.arm, one.turn, one.first): one.better for one in verdicts}
    outcomes = [_outcome(pair, by_order) for pair in compared]
    comparisons = []
    for arm in dict.fromkeys(pair.arm for pair in compared):
        of_arm = [one for one in outcomes if one.pair.arm == arm]
        shown = [one for one in of_arm if not one.pair.is_identical]
        if shown and all(one.score is None for one in shown):
            raise JudgeError(
                "no pair has a usable reply in both orders: use a judge model and a server that can write JSON to a "
                "schema (response_format json_schema)."
            )
        for category in dict.fromkeys([ALL, *(one.pair.question.category for one in of_arm)]):
            some = [one for one in of_arm if category in (ALL, one.pair.question.category)]
            if any(one.score is not None for one in some):
                comparisons.append(_comparison(arm, category, some))
    return comparisons


def _outcome(pair: Pair, by_order: Mapping[tuple[str, str, int, Side], str | None]) -> _Outcome:
    if pair.is_identical:
        return _Outcome(pair, 0.5, None)
    both = [by_order.get((pair.question.question_id, pair.arm, pair.turn, first)) for first in ORDERS]
    if None in both:
        return _Outcome(pair, None, None)
    score = {("judged", "judged"): 1.0, ("strict", "strict"): 0.0}.get((str(both[0]), str(both[1])), 0.5)
    return _Outcome(pair, score, both[0] == both[1])


def _comparison(arm: str, category: str, outcomes: Sequence[_Outcome]) -> Comparison:
    scores: dict[str, list[float]] = {}
    for one in outcomes:
        if one.score is not None:
            scores.setdefault(one.pair.question.question_id, []).append(one.score)
    counted = [score for of_question in scores.values() for score in of_question]
    agreed = [one.agreed for one in outcomes if one.agreed is not None]
    return Comparison(
        arm=arm,
        category=category,
        n=len(counted),
        wins=counted.count(1.0),
        ties=counted.count(0.5),
        losses=counted.count(0.0),
        # Two turns of a conversation are no two questions: the bootstrap is over questions.
        win_rate=ratio([sum(one) for one in scores.values()], [len(one) for one in scores.values()]),
        identical=sum(one.pair.is_identical for one in outcomes),
        agreement=sum(agreed) / len(agreed) if agreed else None,
        refused=sum(one.score is None for one in outcomes),
    )


def write(
    path: Path, comparisons: Sequence[Comparison], answered: Sequence[Answered], about: Mapping[str, Any]
) -> None:
    """Writes mt_bench.json.

    Args:
        about: settings, machine and command, plain JSON values.
    """
    report = {
        **about,
        "definitions": DEFINITIONS | SPEED_DEFINITIONS,
        "comparisons": [asdict(one) for one in comparisons],
        "speeds": {one.arm: asdict(speed(one.counted, one.seconds)) for one in answered},
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
