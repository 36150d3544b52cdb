"""The six families of problems and the two styles of wording of their solutions.

What is written here is what the demo's models were trained on: another word makes them wrong until they are trained
again (scripts/train_demo.py).
"""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from vllm_judge.demo.grammar import Problem, Readings, Slot

LARGEST = 99
NAMES = ("Tom", "Ana", "Ben", "Eva", "Max", "Lea", "Sam", "Mia", "Leo", "Zoe", "Dan", "Ivy")
UNITS = ("apples", "pens", "books", "cards", "shells", "stamps", "eggs", "cups", "balls", "keys", "stones", "beads")
GAINS = ("buys", "finds", "wins", "gets")
LOSSES = ("loses", "sells", "breaks", "drops")
OPERATORS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}

# Readings of the slots that every solution has: (style A, style B).
OPENINGS = (("We go step by step.",), ("Let us work this out in order.", "Here is one way to see it."))
FIRST = ((" First,",), (" To begin with,", " At the start,"))
NEXT = ((" Then,",), (" After that,", " Going on,"))
LEAD = ((" so it is",), (" which means that we get", " and that leads to"))
EQUALS = ((" =",), (" equals", " makes"))
ANSWERS = ((" The answer is",), (" So the final count comes to", " Hence we end up with"))


@dataclass(frozen=True)
class Step:
    """One calculation, `left sign right`, and what either style says happens in it."""

    left: int
    sign: str
    right: int
    clause: tuple[Readings, ...]
    wrong_clauses: Readings = ()

    @property
    def result(self) -> int:
        return ARITHMETIC[self.sign](self.left, self.right)


Sketch = tuple[str, list[Step], str]  # a problem to be: question, steps, unit


def draw(rng: random.Random) -> Problem | None:
    """A random problem, or None where a number in it left the range 1..LARGEST."""
    family, (question, steps, unit) = sketch(rng)
    if not in_range(steps):
        return None
    return Problem(family, question, steps[-1].result, slots_of(steps, unit))


def sketch(rng: random.Random) -> tuple[str, Sketch]:
    """A random problem to be, of a random family, whatever its numbers."""
    family = rng.choice(tuple(FAMILIES))
    return family, FAMILIES[family](rng)


def in_range(steps: list[Step]) -> bool:
    """Whether all numbers are in 1..LARGEST."""
    return all(1 <= number <= LARGEST for step in steps for number in (step.left, step.right, step.result))


def slots_of(steps: list[Step], unit: str) -> tuple[Slot, ...]:
    """The slots of a solution: the opening, nine a step, and the answer's three."""
    unit_slot = Slot(((f" {unit}.",), (" of them.", f" {unit} in all.")))
    slots = [Slot(OPENINGS)]
    for index, step in enumerate(steps):
        slots += [
            Slot(NEXT if index else FIRST),
            Slot(step.clause, step.wrong_clauses),
            Slot(LEAD),
            _number(step.left),
            _operator(step.sign),
            _number(step.right),
            Slot(EQUALS),
            _number(step.result),
            unit_slot,
        ]
    return (*slots, Slot(ANSWERS), _number(steps[-1].result), unit_slot)


def _number(value: int) -> Slot:
    return Slot(((f" {value}",), (f" {value}",)))


def _operator(sign: str) -> Slot:
    wrong = tuple(f" {text}" for other, word in OPERATORS.items() if other != sign for text in (other, word))
    return Slot(((f" {sign}",), (f" {OPERATORS[sign]}",)), wrong)


def _all(styles: tuple[Readings, ...]) -> Readings:
    return tuple(reading for style in styles for reading in style)


def _event(rng: random.Random) -> tuple[str, str, int]:
    """A random gain or loss: (sign, verb, amount)."""
    sign = rng.choice("+-")
    return sign, rng.choice(GAINS if sign == "+" else LOSSES), rng.randint(2, 49)


def _change(who: str, left: int, sign: str, amount: int) -> Step:
    """The step in which `who` gains or loses."""
    gain = ((f"{who} gets more,",), (f"{who} sees the pile grow,",))
    loss = ((f"{who} has fewer left,",), (f"{who} sees the pile shrink,",))
    clause, wrong = (gain, loss) if sign == "+" else (loss, gain)
    return Step(left, sign, amount, clause, _all(wrong))


def _changes(name: str, have: int, events: list[tuple[str, str, int]]) -> tuple[str, list[Step]]:
    """The sentences and the steps of events that happen one after the other."""
    sentences, steps = "", list[Step]()
    for sign, verb, amount in events:
        sentences += f" {name} {verb} {amount}."
        steps.append(_change(f" {name}", steps[-1].result if steps else have, sign, amount))
    return sentences, steps


def _chain(rng: random.Random) -> Sketch:
    name, unit, have = rng.choice(NAMES), rng.choice(UNITS), rng.randint(5, 90)
    sentences, steps = _changes(name, have, [_event(rng) for _ in range(rng.choice((2, 3)))])
    return f"{name} has {have} {unit}.{sentences} How many {unit} does {name} have now?", steps, unit


def _packs(rng: random.Random) -> Sketch:
    name, unit, packs, size = rng.choice(NAMES), rng.choice(UNITS), rng.randint(2, 9), rng.randint(2, 12)
    clause = ((" the boxes are full,",), (" every box is opened up,", " the boxes are counted,"))
    opened = Step(packs, "*", size, clause)
    sentences, steps = _changes(name, opened.result, [_event(rng)])
    question = f"{name} has {packs} boxes with {size} {unit} in each.{sentences} How many {unit} does {name} have now?"
    return question, [opened, *steps], unit


def _compare(rng: random.Random) -> Sketch:
    (first, second), unit, base = rng.sample(NAMES, 2), rng.choice(UNITS), rng.randint(5, 60)
    sign, amount = rng.choice("+-"), rng.randint(2, 39)
    more = ((f" {second} has more,",), (f" {second} owns the bigger pile,",))
    less = ((f" {second} has less,",), (f" {second} owns the smaller pile,",))
    clause, wrong, word = (more, less, "more") if sign == "+" else (less, more, "fewer")
    other = Step(base, sign, amount, clause, (*_all(wrong), f" {first} has more,", f" {first} has less,"))
    question = f"{first} has {base} {unit}. {second} has {amount} {word} than {first}."
    return _together(rng, question, other, (first, second), unit)


def _times(rng: random.Random) -> Sketch:
    (first, second), unit, base, factor = rng.sample(NAMES, 2), rng.choice(UNITS), rng.randint(2, 12), rng.randint(2, 9)
    clause = ((f" {second} has more,",), (f" {second} owns the bigger pile,",))
    other = Step(base, "*", factor, clause, (f" {first} has more,", f" {second} has less,"))
    question = f"{first} has {base} {unit}. {second} has {factor} times as many as {first}."
    return _together(rng, question, other, (first, second), unit)


def _together(rng: random.Random, question: str, other: Step, names: tuple[str, str], unit: str) -> Sketch:
    """Two people: `other` gives the second one's number; both are added, and sometimes something happens after that."""
    clause = ((" we add both,",), (" the two piles are joined,", " they put it together,"))
    both = Step(other.left, "+", other.result, clause)
    steps = [other, both]
    if rng.random() < 0.4:
        sign, verb, amount = _event(rng)
        question += f" Together they {verb[:-1]} {amount}."
        steps.append(_change(" the pair", both.result, sign, amount))
    return f"{question} How many {unit} do {names[0]} and {names[1]} have in total?", steps, unit


def _share(rng: random.Random) -> Sketch:
    name, unit, boxes, each = rng.choice(NAMES), rng.choice(UNITS), rng.randint(2, 9), rng.randint(2, 12)
    events = [_event(rng) for _ in range(rng.choice((1, 2)))]
    have = boxes * each - sum(amount if sign == "+" else -amount for sign, _, amount in events)
    sentences, steps = _changes(name, have, events)
    clause = ((" we fill the boxes,",), (" the pile is split evenly,", " each box gets its part,"))
    steps.append(Step(steps[-1].result, "/", boxes, clause))
    question = f"{name} has {have} {unit}.{sentences} {name} puts the rest into {boxes} equal boxes."
    return f"{question} How many {unit} are in each box?", steps, unit


def _cost(rng: random.Random) -> Sketch:
    name, unit, count, price = rng.choice(NAMES), rng.choice(UNITS), rng.randint(2, 9), rng.randint(2, 12)
    extra, paid = rng.randint(2, 39), rng.randint(20, LARGEST)
    clause = ((f" the {unit} cost,",), (f" {name} pays for the {unit},", f" the price of the {unit} counts,"))
    items = Step(count, "*", price, clause)
    clause = ((" the bag costs,",), (f" {name} pays for the bag,", " the price of the bag counts,"))
    total = Step(items.result, "+", extra, clause)
    question = f"{name} buys {count} {unit} for {price} coins each and a bag for {extra} coins."
    if rng.random() < 0.5:
        clause = ((f" {name} gets change,",), (" some coins come back,", f" {name} takes the rest,"))
        change = Step(paid, "-", total.result, clause)
        question += f" {name} gives {paid} coins. How many coins does {name} get back?"
        return question, [items, total, change], "coins"
    return f"{question} How many coins does {name} need?", [items, total], "coins"


FAMILIES: dict[str, Callable[[random.Random], Sketch]] = {
    "chain": _chain,
    "packs": _packs,
    "compare": _compare,
    "times": _times,
    "share": _share,
    "cost": _cost,
}
