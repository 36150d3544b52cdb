"""The fastest number of drafts, by concurrency where the drafter can change it, and the deployment that has it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_judge.calibration.speed import JUDGED, NUMBER, PLAIN, STRICT, Deployment, Speed
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.judge_json import JUDGE_JSON
from vllm_judge.training.card import head_card
from vllm_judge.training.head_folder import copy_head

SCHEDULE = "num_speculative_tokens_per_batch_size"
# Drafters whose number of drafts by batch size was run with a judge (docs/support.md).
BY_BATCH_SIZE = ("draft_model", "eagle3", "ngram")


@dataclass(frozen=True)
class Level:
    """The fastest at one concurrency, and what it is measured against."""

    concurrency: int
    judged: Speed
    strict: Speed
    plain: Speed

    def as_json(self) -> dict[str, Any]:
        """The figures; a ratio's range is over all pairs of rounds."""
        return {
            "concurrency": self.concurrency,
            **{
                one.mode: {"drafts": one.drafts, "tokens_per_s": one.median, "rounds": one.tokens_per_s}
                for one in (self.plain, self.strict, self.judged)
            },
            "over_plain": _ratio(self.judged, self.plain),
            "over_strict": _ratio(self.judged, self.strict),
        }


def _ratio(one: Speed, other: Speed) -> dict[str, float]:
    return {
        "median": one.median / other.median,
        "low": min(one.tokens_per_s) / max(other.tokens_per_s),
        "high": max(one.tokens_per_s) / min(other.tokens_per_s),
    }


def choose(
    candidates: Sequence[Deployment], speeds: Sequence[Speed], engine: Mapping[str, Any]
) -> tuple[Deployment, list[Level]]:
    """The deployment to serve, and the level of each concurrency.

    The fastest is the one with the highest product of tokens/s over all concurrencies. Where its drafter can change the
    number with the batch, each concurrency has its own fastest among the candidates that have the very same head and
    threshold, since a deployment has one of them, and the deployment is the one with the most drafts.
    """
    by_key = {(one.head, one.concurrency, one.mode): one for one in speeds}
    levels = sorted({one.concurrency for one in speeds})

    def judged(one: Deployment, at: int) -> Speed:
        return by_key[str(one.folder), at, JUDGED]

    best = max(candidates, key=lambda one: statistics.geometric_mean(judged(one, at).median for at in levels))
    one_number = best.config["method"] not in BY_BATCH_SIZE or engine.get("data_parallel_size", 1) > 1
    alike = [best] if one_number else [one for one in candidates if _is_same(one, best)]
    fastest = {at: max(alike, key=lambda one: judged(one, at).median) for at in levels}
    served = max(fastest.values(), key=lambda one: one.drafts)
    return served, [
        Level(
            at,
            judged(fastest[at], at),
            max((one for one in speeds if (one.mode, one.concurrency) == (STRICT, at)), key=lambda one: one.median),
            by_key["", at, PLAIN],
        )
        for at in levels
    ]


def _is_same(one: Deployment, other: Deployment) -> bool:
    mine, theirs = one.head.state_dict(), other.head.state_dict()
    same = mine.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in mine.items())
    others = {**one.config, NUMBER: None} == {**other.config, NUMBER: None}
    return same and others and one.head.threshold == other.head.threshold


def schedule(levels: Sequence[Level]) -> list[tuple[int, int, int]] | None:
    """vLLM's ranges of batch sizes (first, last, drafts): each up to its concurrency; None where one number is best."""
    if len({level.judged.drafts for level in levels}) == 1:
        return None
    starts = [1, *(level.concurrency + 1 for level in levels)]
    return [(start, level.concurrency, level.judged.drafts) for start, level in zip(starts, levels, strict=False)]


def write(folder: Path, served: Deployment, levels: Sequence[Level], n: int, rounds: int) -> JudgeHead:
    """Writes the deployment into a folder of its own, with its numbers of drafts and the speeds that chose them.

    Raises:
        JudgeError: the folder cannot be written.
    """
    ranges = schedule(levels)
    speed = {"n": n, "rounds": rounds, "levels": [level.as_json() for level in levels], SCHEDULE: ranges}
    head = served.head.with_config(
        threshold=served.head.threshold,
        target_model=served.head.target_model,
        target_revision=served.head.target_revision,
        provenance={**served.head.provenance, "speed": speed},
        scores=served.head.scores and served.head.scores.model_dump(),
    )
    try:
        copy_head(served.folder, folder)
        head.save_pretrained(folder)
        (folder / "README.md").write_text(head_card(head), encoding="utf-8")
        config = json.loads((served.folder / JUDGE_JSON).read_text(encoding="utf-8"))
        config |= {SCHEDULE: ranges} if ranges else {}
        # Last of all comes what makes it a deployment.
        (folder / JUDGE_JSON).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"the head in {folder} cannot be written: {error.strerror}.") from None
    return head
