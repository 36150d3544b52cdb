"""The section of a report on an engine's quality: evaluate.json."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from vllm_judge.page.parts import Cell, Row, Section, Table, estimate, number, text
from vllm_judge.quality.scores import Score, Speed


class EvaluationFile(BaseModel):
    """evaluate.json of `vllm-judge evaluate`."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    definitions: dict[str, str]
    scores: list[Score] = Field(min_length=1)
    speeds: dict[str, Speed]

    def section(self) -> Section:
        return Section(
            title=f"Quality on {self.settings['tasks']}",
            method=f"lm-eval's tasks on one engine ({self.settings['engine']}), once with strict verification and once "
            "judged, by the dial that every request carries. Answers to the same document are compared in pairs; time "
            "and counters are of the same runs.",
            tables=[self._scores(), speed_table(self.speeds)],
            definitions=self.definitions,
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )

    def _scores(self) -> Table:
        columns = ["task", "metric", "run", "n", "score", "minus strict", "McNemar p"]
        rows = [
            Row(
                [
                    text(one.task),
                    text(one.metric),
                    text(one.arm),
                    number(one.n, "d"),
                    estimate(one.score, ".3f"),
                    estimate(one.minus_strict, "+.3f"),
                    Cell("") if one.mcnemar_p is None else number(one.mcnemar_p, ".2g"),
                ]
            )
            for one in self.scores
        ]
        return Table("Quality, with 95% intervals", columns, rows)


def speed_table(speeds: Mapping[str, Speed]) -> Table:
    """How fast the runs were whose answers are compared."""
    columns = ["run", "tokens/s", "ms per token", "accepted per cycle", "judge only, % of accepted"]
    rows = [
        Row(
            [
                text(name),
                number(run.tokens_per_s, ".1f"),
                number(run.ms_per_token),
                number(run.accepted_per_cycle),
                number(100 * run.judge_only_share, ".1f"),
            ]
        )
        for name, run in speeds.items()
    ]
    return Table("Speed of the same runs", columns, rows)
