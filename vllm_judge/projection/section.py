"""Sections of a report on projected speed-ups, and on how far they were off: `vllm-judge project --json`."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from vllm_judge.page.parts import Row, Section, Table, number, text
from vllm_judge.projection.check import Check, StepTimes

DEFINITIONS = {
    "speed_up": "tokens per second by those of the target without speculation, by the formula of docs/projection.md",
    "best_drafts": "drafts per cycle with the highest projected speed-up; 0 where drafting does not pay",
    "break_even_batch": "the most requests at a time at which drafting is projected to be no slower than none",
}


class Batch(BaseModel):
    """The projection for a number of requests at a time."""

    batch: int
    speed_up: float
    best_num_drafts: int
    best_speed_up: float


class ProjectionFile(BaseModel):
    """What `vllm-judge project --json` writes; times in ms."""

    projection: Literal[True]
    acceptance: str
    target_step_ms: float
    draft_step_ms: float
    ridge_tokens: float
    overhead_ms: float
    num_drafts: int
    expected_accepted: float
    break_even_batch: int | None
    batches: list[Batch] = Field(min_length=1)
    command: str | None = None

    def section(self) -> Section:
        columns = [
            "requests at a time",
            f"speed-up with {self.num_drafts} drafts",
            "best drafts",
            "speed-up with these",
        ]
        rows = [
            Row(
                [
                    number(one.batch, "d"),
                    number(one.speed_up),
                    number(one.best_num_drafts, "d"),
                    number(one.best_speed_up),
                ]
            )
            for one in self.batches
        ]
        limit = "at every batch size" if self.break_even_batch is None else f"up to a batch of {self.break_even_batch}"
        return Section(
            title="Projected speed-up (not measured)",
            method=f"A projection for given step times, not a measurement. Acceptance: {self.acceptance}; of "
            f"{self.num_drafts} drafts {self.expected_accepted:.2f} are expected to be accepted. Drafting "
            f"{self.num_drafts} tokens is projected to pay {limit}.",
            tables=[Table("Projected, not measured", columns, rows)],
            definitions=DEFINITIONS,
            settings=self.model_dump(include={"target_step_ms", "draft_step_ms", "ridge_tokens", "overhead_ms"}),
            command=self.command,
        )


class ProjectionCheckFile(BaseModel):
    """What `vllm-judge project --check --json` writes."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    step_times: list[StepTimes] = Field(min_length=1)
    checks: list[Check] = Field(min_length=1)

    def section(self) -> Section:
        checks = [
            Row(
                [
                    text(one.source),
                    text(one.case),
                    number(one.known),
                    number(one.projected),
                    number(100 * one.error, "+.0f"),
                ]
            )
            for one in self.checks
        ]
        times = [
            Row([number(one.batch, "d"), number(one.target_ms), number(one.draft_ms), number(one.overhead_ms)])
            for one in self.step_times
        ]
        return Section(
            title="How far projections are off",
            method="Speed-ups that are known beside their projections: published ones, and those of a benchmark of the "
            "embedded models. The benchmark's step times are from its plain and strict runs, its acceptance from the "
            "run of each mode with the most drafts; the times of judged runs are in no fit.",
            tables=[
                Table("Known and projected", ["source", "case", "known", "projected", "error in %"], checks),
                Table("Step times of the benchmark, in ms", ["batch", "target", "draft token", "overhead"], times),
            ],
            definitions={
                "known": "tokens per second by those of the target without speculation; the step of 8B/70B in ms",
                "error": "projected by known, less 1",
                "target": "time of a step without speculation",
                "draft_token": "slope of a strict cycle's time over the number of drafts",
                "overhead": "a strict cycle's time at no drafts, by the same line, less the target's step",
            },
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )
