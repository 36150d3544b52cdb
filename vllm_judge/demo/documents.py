"""What the demo's models are trained on: solved problems, some with a corrected slip, and rows of arithmetic facts."""

import random
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from vllm_judge.demo.families import ANSWERS, ARITHMETIC, EQUALS, LARGEST, NAMES, NEXT, OPERATORS, UNITS
from vllm_judge.demo.grammar import Problem, Slot
from vllm_judge.demo.harder import STYLE_C
from vllm_judge.demo.tokenizer import END, render_prompt
from vllm_judge.demo.world import solution_pieces

MARKER = " wait,"
DIGIT_WEIGHT = 4.0
COPY_WEIGHT = 3.0  # of names and units, which are copied from the question


@dataclass(frozen=True)
class Habits:
    """How a model's training text is worded.

    A document's style is drawn from `styles` and `read`: (share of documents, chance of style B in a slot, chance of
    style C if there is one). In those of `read`, the first token of what only style C has carries no weight: the model
    learns to go on in style C and not to turn to it. `corrections` is the share of solutions in which a slip that has
    no weight is made and taken back.

    The other slips are the model's own, with weight: where a slot has something confusable, that is written instead,
    in the share `distracted` of such numbers and `confused` of such words. The share `noticed` of these slips is taken
    back at once; the others end the document after the next word, which is in the usual style, `styles[0]`.
    """

    styles: tuple[tuple[float, ...], ...]
    corrections: float
    read: tuple[tuple[float, ...], ...] = ()
    distracted: float = 0.0
    confused: float = 0.0
    noticed: float = 0.0


class DocumentWriter:
    """Writes training documents as (token ids, loss weight of each token)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, habits: Habits):
        self.habits = habits
        [self.end] = tokenizer.encode(END, add_special_tokens=False)
        # Pieces start where the tokenizer splits words anyway: encoding them one by one equals encoding the text.
        self.encode = lru_cache(maxsize=None)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        self.decode = lru_cache(maxsize=None)(lambda token: str(tokenizer.decode([token])))
        self.tokenizer = tokenizer
        self.copied = {token for word in (*NAMES, *UNITS, "coins") for token in self.encode(f" {word}")}

    def solved(
        self, problem: Problem, rng: random.Random, decision_weight: float = 1.0, turn_weight: float = 1.0
    ) -> tuple[list[int], list[float]]:
        """A prompt and a solution of it.

        The words that say what happens (gain or loss, who has more, the operator) have `decision_weight`, those that
        go on to another step or to the answer `turn_weight`. A slip of the pen has no weight, nor has the prompt, but
        for names and units that it repeats: copying them is learned there first.
        """
        kinds = self.habits.styles + self.habits.read
        kind = rng.choices(range(len(kinds)), [share for share, *_ in kinds])[0]
        pieces = _pieces(problem, kinds[kind], rng)
        slip = self._slip_of(problem, rng) if rng.random() < self.habits.corrections else None
        ids = self.tokenizer.encode(render_prompt(problem.question), add_special_tokens=False)
        weights = [COPY_WEIGHT if token in self.copied and token in ids[:i] else 0.0 for i, token in enumerate(ids)]
        for index, piece in enumerate(pieces):
            if slip and slip[0] == index:
                self._append(ids, weights, slip[1], weighted=False)
                self._append(ids, weights, self.encode(MARKER))
            slot = problem.slots[index]
            least = decision_weight if slot.wrong else turn_weight if slot.styles[:2] in (NEXT, ANSWERS) else 0.0
            if own := self._own_slip(slot, piece, rng):
                wrong, rest = own
                self._append(ids, weights, wrong, least=least)
                if rng.random() >= self.habits.noticed:
                    rest += self.encode(_pieces(problem, self.habits.styles[0], rng)[index + 1])
                    ids += rest
                    weights += [1.0] * len(rest)  # the marker's: how often a slip is noticed is learned from both
                    return ids, weights
                self._append(ids, weights, self.encode(MARKER))
            only_read = kind >= len(self.habits.styles) and not any(piece in known for known in slot.styles[:2])
            tokens = self.encode(piece)
            if only_read:  # the turn to style C has no weight; how to go on in it is learned
                self._append(ids, weights, tokens[:1], weighted=False)
                tokens = tokens[1:]
            self._append(ids, weights, tokens, least=least)
        self._append(ids, weights, (self.end,))
        return ids, weights

    def facts(self, length: int, rng: random.Random, style_c: float = 0.0) -> tuple[list[int], list[float]]:
        """A row of about `length` tokens of "a + b = c." in both wordings; only the results have weight.

        The share `style_c` of them says "equals" in style C.
        """
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            sign, left, right = random_fact(rng)
            style = rng.random() < 0.5
            equals = STYLE_C[EQUALS] if style_c and rng.random() < style_c else EQUALS[style]
            question = f" {left}", f" {OPERATORS[sign] if style else sign}", f" {right}", rng.choice(equals)
            for piece in question:
                self._append(ids, weights, self.encode(piece), weighted=False)
            self._append(ids, weights, self.encode(f" {ARITHMETIC[sign](left, right)}"))
            self._append(ids, weights, self.encode("."))
        return ids, weights

    def _append(
        self, ids: list[int], weights: list[float], tokens: tuple[int, ...], weighted: bool = True, least: float = 0.0
    ) -> None:
        ids.extend(tokens)
        weights.extend(max(least, self._weight(token)) if weighted else 0.0 for token in tokens)

    def _weight(self, token: int) -> float:
        if token in self.copied:
            return COPY_WEIGHT
        return DIGIT_WEIGHT if self.decode(token).isdigit() else 1.0

    def _slip_of(self, problem: Problem, rng: random.Random) -> tuple[int, tuple[int, ...]] | None:
        """A slot and the tokens of a wrong reading of it, up to the first token that is wrong."""
        numbers = rng.random() < 0.75
        index = rng.choice([i for i, slot in enumerate(problem.slots) if (slot.is_number if numbers else slot.wrong)])
        slot = problem.slots[index]
        wrong = f" {wrong_number(int(slot.readings[0]), rng)}" if numbers else rng.choice(slot.wrong)
        tokens = self._until_wrong(slot, self.encode(wrong))
        return (index, tokens) if tokens else None

    def _own_slip(self, slot: Slot, piece: str, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The tokens of what is confusable with a piece: up to the first that is wrong, and the rest."""
        rate = self.habits.distracted if slot.is_number else self.habits.confused
        if piece not in slot.confusable or rng.random() >= rate:
            return None
        tokens = self.encode(slot.confusable[piece])
        wrong = self._until_wrong(slot, tokens)
        return (wrong, tokens[len(wrong) :]) if wrong else None

    def _until_wrong(self, slot: Slot, tokens: tuple[int, ...]) -> tuple[int, ...] | None:
        text = ""
        for end, token in enumerate(tokens, 1):
            text += self.decode(token)
            if not any(reading.startswith(text) for reading in slot.readings):
                return tokens[:end]
        return None


def _pieces(problem: Problem, kind: tuple[float, ...], rng: random.Random) -> list[str]:
    """A right solution in the style of an entry of `Habits.styles` or `Habits.read`."""
    _, style_b, *style_c = kind
    return solution_pieces(problem, style_b, rng, *style_c)


def random_fact(rng: random.Random) -> tuple[str, int, int]:
    """(sign, left, right) with all numbers and the result in 1..LARGEST, tables of 12 for products and quotients."""
    sign = rng.choices("+-*/", (4, 4, 1, 1))[0]
    if sign in "*/":
        a, b = rng.randint(2, 9), rng.randint(2, 12)
        if sign == "/":
            return sign, a * b, a
        return rng.choice(((sign, a, b), (sign, b, a))) if a * b <= LARGEST else random_fact(rng)
    a, b = sorted((rng.randint(1, LARGEST), rng.randint(1, LARGEST)))
    if a == b:
        return random_fact(rng)
    return ("-", b, a) if sign == "-" else rng.choice((("+", a, b - a), ("+", b - a, a)))


def wrong_number(right: int, rng: random.Random) -> int:
    """Another number, as a weak model writes it: a digit off by one, or another digit, or one digit too many."""
    digits = list(str(right))
    place = rng.randrange(len(digits))
    kind = rng.random()
    if kind < 0.5:
        digits[place] = str((int(digits[place]) + rng.choice((1, 9))) % 10)
    elif kind < 0.95:
        digits[place] = str((int(digits[place]) + rng.randint(1, 9)) % 10)
    else:
        digits.append(str(rng.randrange(10)))
    return int("".join(digits))
