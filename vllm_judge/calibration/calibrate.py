"""A threshold from a promise: judged decoding of held-out questions, and the fastest threshold that keeps its word."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_judge.calibration.sources import Source
from vllm_judge.comparison.answers import Answer, AnswerFolder, Contender
from vllm_judge.comparison.compare import BASELINE, answer_all
from vllm_judge.comparison.picture import draw
from vllm_judge.comparison.points import Point, summarise
from vllm_judge.decoding.pair import Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.decoding.rules import all_rules
from vllm_judge.decoding.rules.judge import judge_rule
from vllm_judge.drift import CalibratedScores
from vllm_judge.errors import JudgeError, PromiseError
from vllm_judge.head import JudgeHead, fingerprint
from vllm_judge.judge_json import write_judge_json
from vllm_judge.training.card import head_card

PICTURE = "calibration.png"


def measure_thresholds(
    source: Source,
    heads: Mapping[str, JudgeHead],
    questions: Sequence[Question],
    thresholds: Sequence[float],
    how: Sampling,
    folder: Path,
) -> tuple[list[Contender], list[Point], list[CalibratedScores | None]]:
    """Strict verification, and then each head, by its folder, at each threshold, on the same questions.

    Answers are kept in `folder`: called again, it goes on where it stopped.

    Returns:
        the contenders, and of each what its answers amount to and its judge's scores; None where the source counts none
        or too few answers have any.

    Raises:
        JudgeError: the folder holds answers of other models or settings, or the source fails.
    """
    chosen = [Contender(all_rules()[BASELINE], {})]
    for name, head in heads.items():
        rule = judge_rule(name, head)
        chosen += [Contender(rule, {"threshold": threshold}) for threshold in sorted(set(thresholds))]
    fingerprints = {name: fingerprint(head) for name, head in heads.items()}
    answers = AnswerFolder(folder, {**source.identity(), **fingerprints, **vars(how)})
    measured = answer_all(
        questions, chosen, answers, lambda missing: source.decode(chosen, missing, how), source.tokenizer
    )
    scores = [
        _scores(fingerprints.get(contender.rule.name), contender, answers)
        for contender, answers in zip(chosen, measured, strict=True)
    ]
    return chosen, summarise(chosen, measured, how.num_speculative_tokens), scores


def _scores(head: str | None, contender: Contender, answers: Sequence[Answer]) -> CalibratedScores | None:
    counts = [answer.probabilities for answer in answers if answer.probabilities is not None]
    if head is None or len(counts) < len(answers):
        return None
    return CalibratedScores.measure(head, contender.setting["threshold"], counts)


def keeps(point: Point, max_accuracy_drop: float) -> bool:
    """Whether accuracy is at most so many percentage points below strict verification's, at the lower end."""
    return 100 * worst(point) >= -max_accuracy_drop


def worst(point: Point) -> float:
    """The lower end of accuracy minus strict verification's.

    Where no question came out differently the interval is a point, which is not proof: then the rule of three says that
    the share of questions that would can be 3 / n.
    """
    return -3 / point.n if _nothing_differed(point) else point.minus_strict.low


def _nothing_differed(point: Point) -> bool:
    return point.minus_strict.low == point.minus_strict.high == 0


def choose_threshold(points: Sequence[Point], max_accuracy_drop: float) -> Point:
    """The fastest judged point that keeps the promise; the first point is strict verification's.

    Raises:
        PromiseError: none does.
    """
    keeping = [point for point in points[1:] if keeps(point, max_accuracy_drop)]
    if not keeping:
        nearest = max(points[1:], key=lambda point: (worst(point), point.tokens_per_forward.value))
        minus = nearest.minus_strict
        raise PromiseError(
            f"on {points[0].n} questions no threshold can be shown to keep accuracy within {max_accuracy_drop:g} "
            f"points of strict verification; nearest comes {nearest.setting['threshold']:g}, at "
            f"{100 * minus.value:+.1f} [{100 * worst(nearest):+.1f}, {100 * minus.high:+.1f}]: "
            f"{_advice(nearest, max_accuracy_drop)}."
        )
    return max(keeping, key=lambda point: point.tokens_per_forward.value)


def _advice(point: Point, max_accuracy_drop: float) -> str:
    """What would decide whether a point keeps the promise, as its interval narrows with the root of n."""
    value = point.minus_strict.value
    room = value + max_accuracy_drop / 100
    if room <= 0:
        return "no number of questions would show it at that; try other thresholds, or allow a larger drop"
    power = 1 if _nothing_differed(point) else 2  # the rule of three narrows faster
    needed = math.ceil(point.n * ((value - worst(point)) / room) ** power)
    return f"about {needed:,} questions would show it if it stays so; or allow a larger drop"


def write_threshold(
    folder: Path,
    head: JudgeHead,
    points: Sequence[Point],
    chosen: Point,
    max_accuracy_drop: float,
    about: dict[str, Any],
    scores: CalibratedScores | None,
) -> JudgeHead:
    """Writes the threshold into the head's folder, with the evidence for it in config.json, the card and a picture, and
    the judge.json that serves the head as it was measured.

    Args:
        folder: the head's.
        head: as it lies there.
        points: all that was measured, strict verification first.
        chosen: the point whose threshold is taken.
        max_accuracy_drop: what is promised, in percentage points.
        about: `target`, `speculative_config` (vLLM's own keys) and whatever else the points depend on.
        scores: the judge's, at that point.

    Raises:
        JudgeError: the folder cannot be written.
    """
    threshold = chosen.setting["threshold"]
    promise = (
        f"Accuracy at most {max_accuracy_drop:g} percentage points below strict verification's, at the lower end of "
        f"the 95% interval, on {chosen.n} held-out questions: {threshold:g} is the fastest threshold that keeps it."
    )
    calibration = {
        "promise": promise,
        "lower_end": worst(chosen),
        **about,
        "points": [asdict(point) for point in points],
    }
    calibrated = head.with_config(
        threshold=threshold,
        target_model=head.target_model,
        target_revision=head.target_revision,
        provenance={**head.provenance, "calibration": calibration},
        scores=scores and scores.model_dump(),
    )
    try:
        draw(folder / PICTURE, points, f"n = {chosen.n} held-out questions, chosen threshold {threshold:g}")
        if "method" in calibrated.provenance:
            (folder / "README.md").write_text(head_card(calibrated), encoding="utf-8")
        calibrated.save_pretrained(folder)
        write_judge_json(folder, about["speculative_config"])
    except OSError as error:
        raise JudgeError(f"the head in {folder} cannot be written: {error.strerror}.") from None
    return calibrated
