"""The parts that a report is made of."""

from dataclasses import dataclass, field
from typing import Any

from vllm_judge.measuring.statistics import Estimate


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, with its interval, "" where there is none."""

    value: str
    interval: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a table; `marked` ones stand out, and the table's caption says why."""

    cells: list[Cell]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table; its first column names the lines."""

    caption: str
    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Picture:
    """A picture: `address` holds it whole, `alt` says it in words."""

    address: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Excerpt:
    """A text with a verdict on each token: (verdict, piece of the text)."""

    title: str
    prompt: str
    tokens: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """What one file of results says.

    Attributes:
        title, method: what was measured, and how.
        definitions: of every number shown.
        settings, machine, command: as the file has them; None: it does not say.
    """

    title: str
    method: str
    tables: list[Table]
    definitions: dict[str, str]
    settings: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    command: str | None = None
    pictures: list[Picture] = field(default_factory=list)
    excerpts: list[Excerpt] = field(default_factory=list)


def text(value: str) -> Cell:
    """A cell with words."""
    return Cell(value, is_text=True)


def number(value: float, form: str = ".2f") -> Cell:
    """A cell with a number in a format."""
    return Cell(format(value, form))


def estimate(one: Estimate, form: str = ".2f") -> Cell:
    """A cell with a number and its interval."""
    return Cell(format(one.value, form), f"[{one.low:{form}}, {one.high:{form}}]")


def percent(one: Estimate, form: str = ".1f") -> Cell:
    """A cell with a share in % and its interval."""
    return estimate(Estimate(100 * one.value, 100 * one.low, 100 * one.high), form)
