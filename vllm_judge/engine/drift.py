"""The drift guard of an engine: in its scheduler, which sees every answer end, and the word to the workers to stop.

Each engine core of a data-parallel deployment has windows of its own, of the answers that it gives, and stops alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.logger import init_logger

from vllm_judge.config import JUDGE, MODES, SHADOW, STRICT, THINKING, JudgeConfig, judge_config
from vllm_judge.drift import Window
from vllm_judge.engine import dial
from vllm_judge.errors import DialError
from vllm_judge.head import logit
from vllm_judge.kernels.verdicts import NUM_BUCKETS, decided

logger = init_logger("vllm.judge")

STOPPED_FIELD = "judge_stopped"


@dataclass(frozen=True)
class Filled:
    """A window that has become full: of which requests, its distance, and whether that is beyond the limit."""

    mode: str
    distance: float
    drifted: bool


@dataclass
class _Answer:
    mode: str
    counts: list[int] = field(default_factory=lambda: [0] * NUM_BUCKETS)


class Guard:
    """Compares the scores of answers with those of the head's calibration.

    Requests count that are judged as the engine is configured: whoever sets a threshold or a scope of its own gives
    answers that the calibration says nothing of. Those in shadow have a window of their own, which decides nothing:
    their drafts are judged in the target's words, and the calibration's were not.

    Attributes:
        stopped: whether the engine has stopped judging.
        filled: windows that were not reported yet.
    """

    def __init__(self, config: JudgeConfig):
        assert config.scores is not None
        self._config, self._scores = config, config.scores
        self._windows = {mode: Window(config.scores) for mode in MODES}
        self._answers: dict[str, _Answer | None] = {}
        self._drifted = False
        self.stopped = False
        self.filled: list[Filled] = []

    def observe(self, request: Any, row: Sequence[int]) -> None:
        """Takes a step's verdicts on a request's drafts."""
        if buckets := decided(row):
            if request.request_id not in self._answers:
                self._answers[request.request_id] = self._begun(request.sampling_params)
            if answer := self._answers[request.request_id]:
                for bucket in buckets:
                    answer.counts[bucket] += 1

    def _begun(self, sampling_params: Any) -> _Answer | None:
        config = self._config
        try:
            found = dial.read(sampling_params, config)
        except DialError:  # of a request that admission did not see
            return None
        usual = found.threshold == logit(config.threshold) and found.thinking_only == (config.scope == THINKING)
        return _Answer(SHADOW if found.shadow else JUDGE) if usual else None

    def end(self, request_ids: Iterable[str]) -> None:
        """Requests have ended, or were aborted."""
        for request_id in request_ids:
            answer = self._answers.pop(request_id, None)
            if answer is not None and (distance := self._windows[answer.mode].add(answer.counts)) is not None:
                self._judge(Filled(answer.mode, distance, distance > self._scores.limit))

    def _judge(self, window: Filled) -> None:
        self.filled.append(window)
        if window.mode == SHADOW or self.stopped:
            return
        found = (
            f"the scores of the last {self._scores.window} judged answers are {window.distance:.2f} from those of the "
            f"calibration, and the limit is {self._scores.limit:.2f}"
        )
        if window.drifted and self._config.on_drift == STRICT:
            self.stopped = True
            logger.warning(
                "judge: %s: judging stops, every request is decoded strictly from now on, until this engine is "
                "restarted (judge.on_drift 'strict'). Calibrate the head on this traffic.",
                found,
            )
        elif window.drifted and not self._drifted:
            logger.warning(
                "judge: %s: the head's promise may not hold for this traffic. Calibrate the head on it, or put the "
                'engine into shadow ("mode": "shadow").',
                found,
            )
        elif self._drifted and not window.drifted:
            logger.warning("judge: %s: they are back where they were.", found)
        self._drifted = window.drifted


def guard(scheduler: Any) -> Guard | None:
    """A scheduler's guard, made at its first step; None where nothing is to be compared with."""
    if not hasattr(scheduler, "judge_guard"):
        config = judge_config(scheduler.vllm_config.speculative_config)
        scheduler.judge_guard = None if config is None or config.scores is None else Guard(config)
    found: Guard | None = scheduler.judge_guard
    return found


def schedule(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """Symptom: where scores have drifted, requests that are under way go on being judged. Why: workers know of a
    request what they were told when it came. How: what is scheduled carries the word to stop, to every rank and in the
    same step. Until: a verifier can be told something by the scheduler (no issue upstream)."""
    output = original(self, *args, **kwargs)
    found = guard(self)
    if found is not None and found.stopped:
        setattr(output, STOPPED_FIELD, True)
    return output


def follow(runner: Any, judge: Any) -> None:
    """Has a worker's judge stop when the scheduler says so."""
    execute_model = runner.execute_model

    def following_execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        judge.stopped |= getattr(scheduler_output, STOPPED_FIELD, False)
        return execute_model(scheduler_output, *args, **kwargs)

    runner.execute_model = following_execute_model
