"""The number of drafts from measured speed: plain, strict and judged decoding of calibrated heads, on this machine."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from vllm_judge.benchmarks.offline import TimedEngine
from vllm_judge.config import read_speculative_config
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.judge_json import JUDGE_JSON, SECTION
from vllm_judge.progress import bar
from vllm_judge.tokencourt import records
from vllm_judge.training.card import head_card
from vllm_judge.training.head_folder import copy_head

NUMBER, SCHEDULE = "num_speculative_tokens", "num_speculative_tokens_per_batch_size"
# Drafters whose number of drafts by batch size was run with a judge (docs/support.md).
BY_BATCH_SIZE = ("draft_model", "eagle3", "ngram")
PLAIN, STRICT, JUDGED = "plain", "strict", "judged"


class Speed(BaseModel):
    """Generated tokens/s of one way to decode at one concurrency, round by round.

    Attributes:
        settings: what it depends on beside the head's folder.
        head: the folder of the deployment that ran; empty for the target alone.
        drafts: per cycle; 0 for the target alone.
    """

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any]
    head: str
    mode: str
    drafts: int
    concurrency: int
    tokens_per_s: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.tokens_per_s)


@dataclass(frozen=True)
class Deployment:
    """A calibrated head's folder: the head, and vLLM's own part of its judge.json."""

    folder: Path
    head: JudgeHead
    config: dict[str, Any]

    @property
    def drafts(self) -> int:
        return int(self.config[NUMBER])


def deployments(folders: Sequence[Path]) -> list[Deployment]:
    """Those of the folders whose head was shown to keep a promise: the others hold no judge.json.

    Raises:
        JudgeError: none was.
        HeadError, JudgeConfigError: a folder holds no head, or a damaged judge.json.
    """
    kept = [folder for folder in folders if (folder / JUDGE_JSON).exists()]
    found = [
        Deployment(folder, JudgeHead.from_pretrained(folder), read_speculative_config(folder)[0]) for folder in kept
    ]
    for one in found:
        if "calibration" not in one.head.provenance:
            raise JudgeError(f"the head in {one.folder} was not calibrated: run `vllm-judge calibrate` on it first.")
    if not found:
        raise JudgeError(
            f"none of {', '.join(map(str, folders))} holds a {JUDGE_JSON}: `vllm-judge calibrate` makes it."
        )
    return found


def measure(
    target: str,
    candidates: Sequence[Deployment],
    prompts: Sequence[list[int]],
    concurrency: Sequence[int],
    rounds: int,
    max_tokens: int,
    engine: Mapping[str, Any],
    file: Path,
) -> list[Speed]:
    """Times the target alone, and each candidate judged and, by its dial, strict, in alternating rounds.

    Each engine has a process of its own, and what it gave is in `file` once it is through: called again, what is
    missing is timed.

    Args:
        prompts: token ids; all of them in every round, after a round without a clock.
        concurrency: requests under way at a time, one after the other.

    Raises:
        JudgeError: an engine did not start or died, or the file cannot be written.
    """
    settings = {"target": target, "n": len(prompts), "rounds": rounds, "max_tokens": max_tokens, "engine": dict(engine)}
    with records.Appender[Speed](file) as appender:
        found = [line.record for line in records.scan(file, Speed) if line.record]
        known = [one for one in found if one.settings == settings]
        runs = [
            ("", 0, None),
            *((str(one.folder), one.drafts, {**one.config, SECTION: {"model": str(one.folder)}}) for one in candidates),
        ]
        with bar("engines timed", len(runs)) as advance:
            for folder, drafts, config in runs:
                missing = [at for at in concurrency if not any(_is(one, folder, at) for one in known)]
                if missing:
                    options = {
                        "max_num_seqs": max(concurrency),
                        **engine,
                        "model": target,
                        "speculative_config": config,
                    }
                    with TimedEngine(options, prompts, max_tokens) as running:
                        for at in missing:
                            for mode, speeds in _rounds(
                                running, prompts, at, rounds, judged=config is not None
                            ).items():
                                one = Speed(
                                    settings=settings,
                                    head=folder,
                                    mode=mode,
                                    drafts=drafts,
                                    concurrency=at,
                                    tokens_per_s=speeds,
                                )
                                appender.append(one)
                                known.append(one)
                advance()
    folders = {folder for folder, _, _ in runs}
    return [one for one in known if one.head in folders and one.concurrency in concurrency]


def _is(one: Speed, folder: str, concurrency: int) -> bool:
    # The last that is written of an engine at one concurrency.
    return (one.head, one.concurrency, one.mode) == (folder, concurrency, JUDGED if folder else PLAIN)


def _rounds(
    engine: TimedEngine, prompts: Sequence[list[int]], at_a_time: int, rounds: int, judged: bool
) -> dict[str, list[float]]:
    dials: dict[str, dict[str, Any] | None] = {STRICT: {"judge": False}, JUDGED: None} if judged else {PLAIN: None}
    speeds: dict[str, list[float]] = {mode: [] for mode in dials}
    for number in range(rounds):
        for mode in list(dials)[:: 1 if number % 2 else -1]:
            timed = engine.answer(prompts, at_a_time, dials[mode])
            speeds[mode].append(timed.tokens / timed.seconds)
    return speeds


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
