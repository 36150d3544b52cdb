"""The figures of an evaluation: paired scores, speeds, and what each number means."""

from dataclasses import dataclass

from vllm_judge.measuring.statistics import Estimate

STRICT = "strict"

DEFINITIONS = {
    "score": "mean of the metric over the task's documents, as lm-eval scores them; with Wilson's 95% interval where a "
    "document is right or wrong, else with a 95% bootstrap over documents. A group's documents are taken together",
    "minus_strict": "score minus strict verification's on the same documents, with a 95% bootstrap over documents",
    "mcnemar_p": "p value of McNemar's exact test that both are right equally often; only where a document is right or "
    "wrong",
}
SPEED_DEFINITIONS = {
    "tokens_per_s": "generated tokens by wall-clock seconds of the run, all requests together",
    "ms_per_token": "mean over requests of the milliseconds between two tokens of an answer, after the first "
    "(vllm:request_time_per_output_token_seconds)",
    "accepted_per_cycle": "draft tokens accepted per target verification, the target's own token not counted",
    "judge_only_share": "share of the accepted draft tokens that strict verification would have rejected",
}


@dataclass(frozen=True)
class Score:
    """A metric of a task, or of a group of tasks, under one arm; see DEFINITIONS."""

    task: str
    metric: str
    higher_is_better: bool
    arm: str
    n: int
    score: Estimate
    minus_strict: Estimate
    mcnemar_p: float | None


@dataclass(frozen=True)
class Speed:
    """How fast an arm was, and how; see SPEED_DEFINITIONS."""

    tokens: int
    seconds: float
    tokens_per_s: float
    ms_per_token: float
    accepted_per_cycle: float
    judge_only_share: float
