"""The harder world: the same families, often beside a number that plays no part, and a third style of many wordings.

It stands for what fixed bars on the target's probability cannot tell apart. Style C has many right readings of each
slot, so that a target that rarely writes it finds every one of them unlikely. And some wrong readings are likely: the
number of a stranger whom the question mentions, and the opposite operator. See docs/compare.md.
"""

import random
import re
from itertools import product

from vllm_judge.demo.families import (
    ANSWERS,
    EQUALS,
    FIRST,
    LARGEST,
    LEAD,
    NAMES,
    NEXT,
    OPENINGS,
    OPERATORS,
    Step,
    in_range,
    sketch,
    slots_of,
)
from vllm_judge.demo.grammar import Problem, Readings, Slot

STRANGERS = 0.5  # share of problems that mention one


def _combinations(*parts: Readings) -> Readings:
    return tuple("".join(chosen) for chosen in product(*parts))


# Style C of the slots that every solution has, by what the easy world says there; words of the demo's tokenizer.
STYLE_C: dict[tuple[Readings, ...], Readings] = {
    OPENINGS: _combinations(
        ("We see", "We work out", "We split up", "We add up", "We start with"),
        (" this", " it all", " each part"),
        (" step by step.", " in order."),
    ),
    FIRST: _combinations(
        (" So", " Here", " Hence", " At this", " Let us see,", " We see,"),
        (" we start,", " we begin,", " it begins,", " the work begins,", " the start is this,", " one step is this,"),
    ),
    NEXT: _combinations(
        (" So", " Here", " Hence", " At this", " Let us see,", " Together"),
        (" we go on,", " it goes on,", " the work goes on,", " one more step is this,", " the rest is this,"),
    ),
    LEAD: _combinations(
        (" with this", " for this", " by that", " at this", " in all", " to this end"),
        (" the count is", " the pile is", " we have", " we need", " it is all of", " one gets"),
    ),
    EQUALS: _combinations(
        (" comes", " leads", " counts", " gets", " adds", " works"),
        (" to", " up to", " out to", " on to", " out as"),
    ),
    ANSWERS: _combinations(
        (" Here", " Hence", " Together", " At the end", " We see,"),
        (" the count", " the total", " all of it"),
        (" is", " comes to", " gets to"),
    ),
}
CLAUSE_LEADS = (" as we see", " now", " this way", " in this step", " for one,", " at this")
UNIT_ENDS = (" now.", " by now.", " together.", " left.", " to see.", " at the end.")
OPPOSITE = {"+": "-", "-": "+"}


def draw(rng: random.Random) -> Problem | None:
    """A random problem, or None where a number in it left the range 1..LARGEST."""
    family, (question, steps, unit) = sketch(rng)
    if not in_range(steps):
        return None
    slots = [_with_style_c(slot, steps, unit) for slot in slots_of(steps, unit)]
    if rng.random() < STRANGERS:
        index = rng.choice(_given(question, steps))
        right, number = steps[index].right, _unused_number(question, steps, rng)
        question = _with_stranger(question, right, number, unit, rng)
        place = 1 + 9 * index + 5  # the right operand of that step
        slots[place] = Slot(slots[place].styles, confusable={f" {right}": f" {number}"})
    return Problem(family, question, steps[-1].result, tuple(slots))


def _with_style_c(slot: Slot, steps: list[Step], unit: str) -> Slot:
    """The slot with style C: of its own where one stands above, else made from styles A and B."""
    known = slot.readings
    if slot.styles in STYLE_C:
        return Slot((*slot.styles, STYLE_C[slot.styles]))
    if slot.is_number:
        return Slot((*slot.styles, slot.styles[0]))
    if known[0] == f" {unit}.":
        return Slot((*slot.styles, _combinations((f" {unit}",), UNIT_ENDS)))
    sign = known[0].strip()
    if sign in OPERATORS:
        other = OPPOSITE.get(sign)
        confusable = {f" {sign}": f" {other}", f" {OPERATORS[sign]}": f" {OPERATORS[other]}"} if other else {}
        return Slot((*slot.styles, slot.styles[1]), slot.wrong, confusable)
    return Slot(
        (*slot.styles, _combinations(CLAUSE_LEADS, known)), slot.wrong + _combinations(CLAUSE_LEADS, slot.wrong)
    )


def _given(question: str, steps: list[Step]) -> list[int]:
    """The steps whose right operand stands in the question."""
    return [index for index, step in enumerate(steps) if str(step.right) in re.findall(r"\d+", question)]


def _unused_number(question: str, steps: list[Step], rng: random.Random) -> int:
    """A number of two digits that is neither in the question nor in its solution."""
    used = {int(number) for number in re.findall(r"\d+", question)}
    used |= {number for step in steps for number in (step.left, step.right, step.result)}
    return rng.choice([number for number in range(10, LARGEST + 1) if number not in used])


def _with_stranger(question: str, beside: int, number: int, unit: str, rng: random.Random) -> str:
    """The question with a sentence about someone else, after the sentence that holds the number `beside`."""
    sentences = re.findall(r"[^.?]+[.?]", question)
    place = next(i for i, sentence in enumerate(sentences) if str(beside) in re.findall(r"\d+", sentence))
    stranger = rng.choice([name for name in NAMES if name not in question])
    sentences.insert(place + 1, f" {stranger} has {number} {unit}.")
    return "".join(sentences)
