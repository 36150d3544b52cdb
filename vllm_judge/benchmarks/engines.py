"""Sections of a report on engines: `vllm-judge demo --json`, scripts/bench_offline.py and scripts/quickstart.py."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from vllm_judge.measuring.statistics import Estimate
from vllm_judge.page.parts import Cell, Picture, Row, Section, Table, estimate, number, text
from vllm_judge.page.render import picture

DEFINITIONS = {
    "tokens_per_s": "generated tokens by seconds of the run, all requests together",
    "problems_per_s": "answered problems by seconds of the run",
    "accepted_per_cycle": "draft tokens accepted per target verification, the target's own token not counted",
    "judge_only_share": "share of the accepted draft tokens that strict verification would have rejected",
    "accuracy": "share of problems with the right final answer",
}
COLUMNS = ["tokens/s", "problems/s", "accepted per cycle", "judge only, % of accepted", "accuracy in %"]
COLOURS = {"strict": "#0072B2", "judge": "#E69F00", "reject_all": "#CC79A7"}
MARKERS = {"strict": "s", "judge": "o", "reject_all": "^"}


class Figures(BaseModel):
    """What `Outcome.figures` gives of a run."""

    n: float
    tokens_per_s: float
    problems_per_s: float
    accepted_per_cycle: float
    judge_only_share: float
    accuracy: float

    def cells(self) -> list[Cell]:
        """The cells of COLUMNS."""
        return [
            number(self.tokens_per_s, ".0f"),
            number(self.problems_per_s, ".2f"),
            number(self.accepted_per_cycle),
            number(100 * self.judge_only_share, ".1f"),
            number(100 * self.accuracy, ".1f"),
        ]


class DemoRun(Figures):
    """A run of the demo, with intervals."""

    accuracy_95: tuple[float, float]
    minus_target: float
    minus_target_95: tuple[float, float]
    mcnemar_p: float


class DemoFile(BaseModel):
    """What `vllm-judge demo --json` writes."""

    settings: dict[str, Any]
    machine: dict[str, Any] | None = None
    command: str | None = None
    runs: dict[str, DemoRun] = Field(min_length=1)

    def section(self) -> Section:
        rows = [
            Row(
                [
                    text(name),
                    *run.cells()[:-1],
                    estimate(_percent(run.accuracy, run.accuracy_95), ".1f"),
                    estimate(_percent(run.minus_target, run.minus_target_95), "+.1f"),
                    number(run.mcnemar_p, ".2g"),
                ]
            )
            for name, run in self.runs.items()
        ]
        return Section(
            title="The embedded models in vLLM",
            method="The same fresh word problems by the target alone, by strict verification and by the judge, each in "
            "an engine of its own, all requests at once, greedy.",
            tables=[Table("With 95% intervals", ["run", *COLUMNS, "minus target alone", "McNemar p"], rows)],
            definitions=DEFINITIONS
            | {
                "accuracy": f"{DEFINITIONS['accuracy']}, with Wilson's 95% interval",
                "minus_target": "accuracy minus the target's on the same problems, with a 95% bootstrap over problems",
                "mcnemar_p": "p value of McNemar's exact test that both are right equally often",
            },
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )


class QuickstartFile(BaseModel):
    """What scripts/quickstart.py --json writes."""

    settings: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    command: str | None = None
    plain: Figures
    strict: Figures
    judge: Figures

    def section(self) -> Section:
        runs = {"plain": self.plain, "strict": self.strict, "judge": self.judge}
        rows = [Row([text(name), *run.cells()]) for name, run in runs.items()]
        return Section(
            title="The embedded models served with vllm serve",
            method=f"The same {self.plain.n:g} fresh word problems over HTTP, greedy, timed as the client sees it.",
            tables=[Table("All servers up, in alternating rounds; speeds are medians", ["server", *COLUMNS], rows)],
            definitions=DEFINITIONS,
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )


class BenchmarkRun(Figures):
    """A configuration of the benchmark: medians over repetitions."""

    mode: str
    num_speculative_tokens: int
    batch: int


class BenchmarkFile(BaseModel):
    """What scripts/bench_offline.py --json writes."""

    model_config = ConfigDict(populate_by_name=True)

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    runs: list[BenchmarkRun] = Field(min_length=1)
    ratios: list[dict[str, float]] = Field(alias="ratios of tokens_per_s", min_length=1)

    def section(self) -> Section:
        rows = [
            Row([text(run.mode), number(run.num_speculative_tokens, "d"), number(run.batch, "d"), *run.cells()])
            for run in self.runs
        ]
        names = [name for name in self.ratios[0] if name != "batch"]
        ratios = [Row([text(name), *(number(one[name]) for one in self.ratios)]) for name in names]
        return Section(
            title="Speed of the embedded models in vLLM",
            method="The same problems in every configuration, each in an engine of its own, in turn in each "
            "repetition; figures are medians over the repetitions. The mode reject_all is a judge that scores every "
            "token and accepts none: what it costs over strict is what judging costs.",
            tables=[
                Table("Ratios of tokens/s", ["ratio", *(f"batch {one['batch']:g}" for one in self.ratios)], ratios),
                Table("All runs", ["mode", "drafts", "batch", *COLUMNS], rows),
            ],
            pictures=[
                Picture(
                    picture(functools.partial(draw_speed, runs=self.runs)),
                    "Generated tokens per second against draft tokens per cycle, one panel a batch size; the numbers "
                    "are in the tables below.",
                    "The dotted line is the target without speculation.",
                )
            ],
            definitions=DEFINITIONS,
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )


def draw_speed(path: Path, runs: Sequence[BenchmarkRun]) -> None:
    """Writes a PNG: tokens/s against draft tokens, a curve a mode, a panel a batch size."""
    batches = sorted({run.batch for run in runs})
    figure = Figure(figsize=(5 * len(batches), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        for mode, colour in COLOURS.items():
            curve = sorted(
                (run.num_speculative_tokens, run.tokens_per_s) for run in runs if (run.mode, run.batch) == (mode, batch)
            )
            if curve:
                axes.plot(*zip(*curve, strict=True), color=colour, marker=MARKERS[mode], label=mode)
        for run in runs:
            if (run.mode, run.batch) == ("plain", batch):
                axes.axhline(run.tokens_per_s, color="black", linestyle=":", label="plain")
        axes.set_title(f"batch {batch}")
        axes.set_xlabel("draft tokens per cycle")
        axes.set_ylabel("generated tokens/s")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _percent(value: float, interval: tuple[float, float]) -> Estimate:
    return Estimate(100 * value, 100 * interval[0], 100 * interval[1])
