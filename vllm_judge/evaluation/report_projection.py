"""The section of a report on a projected speed-up: `vllm-judge project --json`."""

from typing import Literal

from pydantic import BaseModel, Field

from vllm_judge.evaluation.report_sections import Row, Section, Table, number

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
