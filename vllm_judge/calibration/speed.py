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


@dataclass(frozen=True)
class Run:
    """An engine that is timed.

    Attributes:
        head: the folder of a deployment; empty where nothing judges.
        drafts, config: its number of drafts and speculative config; 0 and None without speculation.
        dials: what requests say to the judge, for each way to decode.
    """

    head: str
    drafts: int
    config: dict[str, Any] | None
    dials: dict[str, dict[str, Any] | None]

    def is_timed_by(self, speed: Speed, concurrency: int) -> bool:
        """Whether this is the last that is kept of it at one concurrency."""
        last = (self.head, self.drafts, concurrency, list(self.dials)[-1])
        return (speed.head, speed.drafts, speed.concurrency, speed.mode) == last


def runs(candidates: Sequence[Deployment], strict_drafts: Sequence[int]) -> list[Run]:
    """The target alone, strict verification with numbers of drafts of its own, and each candidate judged and, by its
    requests' dial, strict."""
    config = candidates[0].config
    more = sorted(set(strict_drafts) - {one.drafts for one in candidates})
    return [
        Run("", 0, None, {PLAIN: None}),
        *(Run("", number, {**config, NUMBER: number}, {STRICT: None}) for number in more),
        *(
            Run(
                str(one.folder),
                one.drafts,
                {**one.config, SECTION: {"model": str(one.folder)}},
                {STRICT: {"judge": False}, JUDGED: None},
            )
            for one in candidates
        ),
    ]


def measure(
    engines: Sequence[Run],
    target: str,
    prompts: Sequence[list[int]],
    concurrency: Sequence[int],
    rounds: int,
    max_tokens: int,
    options: Mapping[str, Any],
    file: Path,
) -> list[Speed]:
    """Times each engine in a process of its own, its ways to decode in alternating rounds.

    What an engine gave at one concurrency is in `file` at once: called again, what is missing is timed.

    Args:
        prompts: token ids; all of them in every round, after a round without a clock.
        concurrency: requests under way at a time, one after the other.
        options: more options of vLLM's `LLM`.

    Raises:
        JudgeError: an engine did not start or died, or the file cannot be written.
    """
    settings = {"target": target, "n": len(prompts), "rounds": rounds, "max_tokens": max_tokens}
    settings["engine"] = dict(options)
    with records.Appender[Speed](file) as appender, bar("engines timed", len(engines)) as advance:
        found = [line.record for line in records.scan(file, Speed) if line.record]
        known = [one for one in found if one.settings == settings]
        for run in engines:
            missing = [at for at in concurrency if not any(run.is_timed_by(one, at) for one in known)]
            if missing:
                own = {"model": target, "speculative_config": run.config}
                with TimedEngine({"max_num_seqs": max(concurrency), **options, **own}, prompts, max_tokens) as running:
                    for at in missing:
                        for mode, speeds in _rounds(running, run.dials, prompts, at, rounds).items():
                            how: dict[str, Any] = {"head": run.head, "mode": mode, "drafts": run.drafts}
                            one = Speed(settings=settings, **how, concurrency=at, tokens_per_s=speeds)
                            appender.append(one)
                            known.append(one)
            advance()
    asked = {(run.head, run.drafts) for run in engines}
    return [one for one in known if (one.head, one.drafts) in asked and one.concurrency in concurrency]


def _rounds(
    engine: TimedEngine,
    dials: Mapping[str, dict[str, Any] | None],
    prompts: Sequence[list[int]],
    at_a_time: int,
    rounds: int,
) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {mode: [] for mode in dials}
    for number in range(rounds):
        for mode in list(dials)[:: 1 if number % 2 else -1]:
            timed = engine.answer(prompts, at_a_time, dials[mode])
            speeds[mode].append(timed.tokens / timed.seconds)
    return speeds
