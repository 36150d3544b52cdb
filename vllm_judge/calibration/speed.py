"""How fast calibrated heads are on this machine, judged and strict, and the target alone."""

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

NUMBER = "num_speculative_tokens"
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
