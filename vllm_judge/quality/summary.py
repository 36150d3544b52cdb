"""From an evaluation's answers and counters to its figures, evaluate.json and samples.jsonl."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vllm_judge.measuring.statistics import accuracy, mcnemar, paired_difference, ratio
from vllm_judge.quality.counters import Counters
from vllm_judge.quality.scores import DEFINITIONS, SPEED_DEFINITIONS, STRICT, Score, Speed
from vllm_judge.quality.tasks import Arm


def scores(arms: Mapping[str, Arm]) -> list[Score]:
    """All metrics of all tasks, those alone whose score of a document is one number; the arms of each together."""
    values = {name: _values(arm) for name, arm in arms.items()}
    return [
        _score(task, metric, name, values[name][task, metric], baseline, arm.higher_is_better.get(task, {}))
        for (task, metric), baseline in values[STRICT].items()
        for name, arm in arms.items()
    ]


def _values(arm: Arm) -> dict[tuple[str, str], list[float]]:
    """Scores of documents by task or group, and metric, in the order of the documents."""
    by_task: dict[tuple[str, str], list[float]] = {}
    for task in dict.fromkeys([*arm.members, *arm.samples]):
        for leaf in _leaves(task, arm.members):
            for sample in sorted(arm.samples[leaf], key=lambda sample: sample["doc_id"]):
                for metric in sample["metrics"]:
                    if isinstance(sample[metric], int | float | np.generic):
                        name = metric if sample["filter"] == "none" else f"{metric}, {sample['filter']}"
                        by_task.setdefault((task, name), []).append(float(sample[metric]))
    return by_task


def _leaves(task: str, members: Mapping[str, list[str]]) -> Iterator[str]:
    if task in members:
        for member in members[task]:
            yield from _leaves(member, members)
    else:
        yield task


def _score(
    task: str, metric: str, arm: str, values: list[float], baseline: list[float], better: Mapping[str, bool | None]
) -> Score:
    binary = set(values) | set(baseline) <= {0.0, 1.0}
    right, right_before = [value == 1.0 for value in values], [value == 1.0 for value in baseline]
    return Score(
        task=task,
        metric=metric,
        higher_is_better=better.get(metric.partition(",")[0]) is not False,
        arm=arm,
        n=len(values),
        score=accuracy(right) if binary else ratio(values, [1.0] * len(values)),
        minus_strict=paired_difference(values, baseline),
        mcnemar_p=mcnemar(right, right_before) if binary else None,
    )


def speeds(arms: Mapping[str, Arm]) -> dict[str, Speed]:
    """Of each arm."""
    return {name: speed(arm.counted, arm.seconds) for name, arm in arms.items()}


def speed(counted: Counters, seconds: float) -> Speed:
    """Of answers that took `seconds`, and what the engine counted during them."""
    return Speed(
        tokens=int(counted.tokens),
        seconds=seconds,
        tokens_per_s=counted.tokens / seconds,
        ms_per_token=1000 * counted.token_seconds / max(1, counted.requests),
        accepted_per_cycle=counted.accepted / max(1, counted.cycles),
        judge_only_share=counted.judge_only / max(1, counted.accepted),
    )


def write(folder: Path, arms: Mapping[str, Arm], about: Mapping[str, Any]) -> None:
    """Writes evaluate.json (figures and definitions) and samples.jsonl (every answer and its scores).

    Args:
        about: settings, machine and command, plain JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        **about,
        "definitions": DEFINITIONS | SPEED_DEFINITIONS,
        "scores": [asdict(one) for one in scores(arms)],
        "speeds": {name: asdict(one) for name, one in speeds(arms).items()},
    }
    (folder / "evaluate.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for name, arm in arms.items():
            for task, samples in arm.samples.items():
                for sample in samples:
                    line = {"task": task, "run": name, "doc_id": sample["doc_id"], "filter": sample["filter"]}
                    line |= {metric: sample[metric] for metric in sample["metrics"]}
                    line |= {"target": sample["target"], "answers": sample["resps"]}
                    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
