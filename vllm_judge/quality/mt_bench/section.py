"""The section of a report on pairwise judging: mt_bench.json."""

from typing import Any

from pydantic import BaseModel, Field

from vllm_judge.page.parts import Cell, Row, Section, Table, estimate, number, text
from vllm_judge.quality.mt_bench.scores import Comparison
from vllm_judge.quality.scores import Speed
from vllm_judge.quality.section import speed_table


class MtBenchFile(BaseModel):
    """What `vllm-judge evaluate --mt-bench` writes."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    definitions: dict[str, str]
    comparisons: list[Comparison] = Field(min_length=1)
    speeds: dict[str, Speed]

    def section(self) -> Section:
        columns = ["run", "category", "n", "win", "tie", "loss", "win rate", "identical", "agreement in %", "refused"]
        rows = [
            Row(
                [
                    text(one.arm),
                    text(one.category),
                    *(number(count, "d") for count in (one.n, one.wins, one.ties, one.losses)),
                    estimate(one.win_rate, ".3f"),
                    number(one.identical, "d"),
                    Cell("") if one.agreement is None else number(100 * one.agreement, ".0f"),
                    number(one.refused, "d"),
                ]
            )
            for one in self.comparisons
        ]
        return Section(
            title=f"Pairwise judging on {self.settings['questions']}",
            method=f"Conversations of two turns, answered greedily by one engine ({self.settings['engine']}), strictly "
            f"verified and judged. The model {self.settings['judge_model']} is shown both answers in both orders and "
            "says which is better; only what it says both times counts.",
            tables=[Table("Judged answers against strict ones", columns, rows), speed_table(self.speeds)],
            definitions=self.definitions,
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )
