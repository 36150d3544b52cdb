"""Problems, the slots of their solutions, and the exact acceptor of those solutions.

A solution is a row of slots. A slot has readings in every style: style 0 (A) is the target's habit, style 1 (B) the
draft's, and in the harder world there is a style 2 (C), that world's draft's. Every slot picks its style independently,
so that two right solutions may differ in every word; the numbers are fixed by the problem. A text is right as long as
some row of readings begins with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Readings = tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """One place of a solution: `styles[s]` are its right readings in style s, `wrong` some typical wrong ones.

    `confusable` gives, for a right reading, the wrong one that is easily taken for it; empty in the easy world. Every
    reading starts where the tokenizer splits words; an empty reading means that the slot may be left out.
    """

    styles: tuple[Readings, ...]
    wrong: Readings = ()
    confusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def readings(self) -> Readings:
        return tuple(reading for style in self.styles for reading in style)

    @property
    def is_number(self) -> bool:
        return self.styles[0][0].strip().isdigit()


@dataclass(frozen=True)
class Problem:
    """A word problem: its family, its text, its answer, and the slots of its solutions."""

    family: str
    question: str
    answer: int
    slots: tuple[Slot, ...]


def first_mistake(problem: Problem, text: str) -> int | None:
    """Where `text` leaves the set of right solutions.

    Returns:
        the offset of the first character that no right solution has there; len(text) if the text is right so far but
        ends too early; None if it is a whole right solution.
    """
    alive = _begin(problem, 0)
    for offset, character in enumerate(text):
        followed = {(slot, rest[1:]) for slot, rest in alive if rest.startswith(character)}
        alive = {state for slot, rest in followed for state in ([(slot, rest)] if rest else _begin(problem, slot + 1))}
        if not alive:
            return offset
    return None if (len(problem.slots), "") in alive else len(text)


def _begin(problem: Problem, slot: int) -> set[tuple[int, str]]:
    """The states (slot, rest of its reading) where a slot starts; one that may be left out starts the next as well."""
    if slot == len(problem.slots):
        return {(slot, "")}
    states = {(slot, reading) for reading in problem.slots[slot].readings if reading}
    if "" in problem.slots[slot].readings:
        states |= _begin(problem, slot + 1)
    return states
