"""The section of a report on rules compared: results.json."""

import functools
from typing import Any

from pydantic import BaseModel

from vllm_judge.comparison import picture as comparison_picture
from vllm_judge.comparison.points import Point
from vllm_judge.page.parts import Picture, Row, Section, Table, estimate, number, percent, text
from vllm_judge.page.render import picture

COMPARED = ("accuracy", "minus_strict", "mcnemar_p", "tokens_per_forward", "accepted_per_cycle", "judge_only_share")


class ComparisonFile(BaseModel):
    """results.json of `vllm-judge compare`."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    definitions: dict[str, str]
    rules: dict[str, str]
    points: list[Point]

    def section(self) -> Section:
        drafts = self.settings["num_speculative_tokens"]
        sampled = f"temperature {self.settings['temperature']:g}" if self.settings["temperature"] else "greedy"
        title = f"{self.settings['questions']}: n = {self.settings['n']}, {sampled}, {drafts} drafts per cycle"
        front = [point for point in self.points if point.on_front]
        best = max(front, key=lambda point: point.accuracy.value)
        return Section(
            title=f"Rules compared on {self.settings['questions']}",
            method=f"Every rule answers the same {self.settings['n']} prompts in the reference decoder (plain "
            f"transformers, {sampled}): the draft model writes {drafts} tokens, the target reads them in one pass, the "
            "rule accepts a beginning of them, the target's own token follows. Rules differ in what they accept, in "
            "nothing else.",
            tables=[self._table()],
            pictures=[
                Picture(
                    picture(functools.partial(comparison_picture.draw, points=self.points, title=title)),
                    f"Accuracy against tokens per target forward, a curve a rule; {len(front)} of {len(self.points)} "
                    f"points are on the Pareto front, the most accurate of them {best.rule} with "
                    f"{best.accuracy.value:.1%} at {best.tokens_per_forward.value:.1f} tokens per forward.",
                    "Accuracy against speed; bars are 95% intervals, rings mark the Pareto front.",
                )
            ],
            definitions={name: self.definitions[name] for name in (*COMPARED, "on_front")} | self.rules,
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )

    def _table(self) -> Table:
        columns = ["rule", "setting", "accuracy in %", "minus strict", "McNemar p", "tokens per forward"]
        rows = [
            Row(
                [
                    text(point.rule),
                    text(", ".join(f"{name} {value:g}" for name, value in point.setting.items())),
                    percent(point.accuracy),
                    percent(point.minus_strict, "+.1f"),
                    number(point.mcnemar_p, ".2g"),
                    estimate(point.tokens_per_forward),
                    number(point.accepted_per_cycle),
                    number(100 * point.judge_only_share, ".1f"),
                ],
                marked=point.on_front,
            )
            for point in self.points
        ]
        caption = "With 95% intervals; marked: on the Pareto front"
        return Table(caption, [*columns, "accepted per cycle", "judge only, % of accepted"], rows)
