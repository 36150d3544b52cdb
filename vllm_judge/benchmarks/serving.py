"""The section of a report on served speed: scripts/bench_serve.py --json."""

from typing import Any

from pydantic import BaseModel, Field

from vllm_judge.measuring.statistics import Estimate
from vllm_judge.page.parts import Cell, Row, Section, Table, number, percent, text


class Level(BaseModel):
    """A server at one concurrency; times in ms."""

    mode: str
    concurrency: int
    n: int
    tokens_per_s: float
    requests_per_s: float
    goodput_per_s: float | None
    ttft_ms_p50: float
    ttft_ms_p99: float
    tpot_ms_p50: float
    tpot_ms_p99: float
    accepted_per_cycle: float
    judge_only_share: float


class ModeQuality(BaseModel):
    """Of all answers of a server."""

    n: int
    accuracy: Estimate
    minus_plain: Estimate


class ServingFile(BaseModel):
    """What scripts/bench_serve.py --json writes."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    serving: list[Level] = Field(min_length=1)
    ratios: list[dict[str, float]] = Field(min_length=1)
    quality: dict[str, ModeQuality] | None

    def section(self) -> Section:
        measured = "" if self.quality else " Quality was not measured: the prompts had no answers to check."
        return Section(
            title="Speed of vllm serve under load",
            method="vllm bench serve asks one server after the other (plain, strictly verified, judged) the same "
            "prompts, other ones at each concurrency; the answers that it timed are the ones that are checked."
            + measured,
            tables=[self._ratios(), self._levels(), *([self._quality()] if self.quality else [])],
            definitions={
                "tokens_per_s, requests_per_s": "generated tokens and answered requests by seconds",
                "ttft": "milliseconds from a request to its first token",
                "tpot": "mean milliseconds between an answer's tokens after the first, of each request",
                "goodput": "requests per second that met all objectives in the settings",
                "accepted_per_cycle": "draft tokens accepted per target verification, the target's own not counted",
                "judge_only_share": "share of the accepted draft tokens that strict verification would have rejected",
                "accuracy": "share of right answers over all concurrencies, with Wilson's 95% interval",
                "minus_plain": "difference from the plain server on the same prompts, 95% bootstrap over prompts",
            },
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )

    def _ratios(self) -> Table:
        names = list(dict.fromkeys(name for one in self.ratios for name in one if name != "concurrency"))
        rows = [
            Row([text(name), *(number(one[name]) if name in one else Cell("") for one in self.ratios)])
            for name in names
        ]
        caption = "Ratios at each concurrency; above 1 the judge is faster (medians where there are percentiles)"
        return Table(caption, ["ratio", *(f"{one['concurrency']:g} at a time" for one in self.ratios)], rows)

    def _levels(self) -> Table:
        times = ["TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99"]
        columns = ["server", "at a time", "n", "tokens/s", "requests/s", *times, "goodput/s", "accepted per cycle"]
        rows = [
            Row(
                [
                    text(one.mode),
                    number(one.concurrency, "d"),
                    number(one.n, "d"),
                    number(one.tokens_per_s, ".0f"),
                    number(one.requests_per_s),
                    *(number(ms, ".1f") for ms in (one.ttft_ms_p50, one.ttft_ms_p99, one.tpot_ms_p50, one.tpot_ms_p99)),
                    Cell("") if one.goodput_per_s is None else number(one.goodput_per_s),
                    number(one.accepted_per_cycle),
                    number(100 * one.judge_only_share, ".1f"),
                ]
            )
            for one in self.serving
        ]
        return Table("All servers; times in ms", [*columns, "judge only, % of accepted"], rows)

    def _quality(self) -> Table:
        rows = [
            Row([text(mode), number(one.n, "d"), percent(one.accuracy), percent(one.minus_plain, "+.1f")])
            for mode, one in (self.quality or {}).items()
        ]
        return Table("Quality of the same answers, in %", ["server", "n", "accuracy", "minus plain"], rows)
