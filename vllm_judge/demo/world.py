"""Small worlds of arithmetic word problems: endless fresh problems, worded solutions, and a checker that is exact."""

import random
import re
import zlib
from collections.abc import Callable, Iterator

from vllm_judge.demo import families, harder
from vllm_judge.demo.choices import World
from vllm_judge.demo.grammar import Problem, first_mistake

__all__ = [
    "Problem",
    "first_mistake",
    "is_correct",
    "problem_stream",
    "problems",
    "solution",
    "solution_pieces",
    "split_of",
]


_DRAW: dict[World, Callable[[random.Random], Problem | None]] = {World.EASY: families.draw, World.HARDER: harder.draw}


def problems(n: int, seed: int, split: str, world: World = World.EASY) -> list[Problem]:
    """`n` problems of one split ("train" or "test"), the same for the same seed."""
    stream = problem_stream(seed, split, world)
    return [next(stream) for _ in range(n)]


def problem_stream(seed: int, split: str, world: World = World.EASY) -> Iterator[Problem]:
    """Endless problems of one split; a problem belongs to the same split whatever the seed and the world."""
    rng = random.Random(f"{split} {seed}")
    while True:
        problem = _DRAW[world](rng)
        if problem is not None and split_of(problem) == split:
            yield problem


def split_of(problem: Problem) -> str:
    """The split that a problem belongs to, by its text: one in eight is kept for tests."""
    return "train" if zlib.crc32(problem.question.encode()) % 8 else "test"


def solution(problem: Problem, style_b: float, rng: random.Random) -> str:
    """A right solution; every slot is in style B with probability `style_b`, else in style A."""
    return "".join(solution_pieces(problem, style_b, rng))


def solution_pieces(problem: Problem, style_b: float, rng: random.Random, style_c: float = 0.0) -> list[str]:
    """The readings of a right solution, one per slot: what the chances of B and C leave is style A's."""

    def style() -> int:
        drawn = rng.random()
        return 1 if drawn < style_b else 2 if drawn < style_b + style_c else 0

    return [rng.choice(slot.styles[style()]) for slot in problem.slots]


def is_correct(problem: Problem, text: str) -> bool:
    """Whether the text comes to the answer: the last number of its last answering sentence is right."""
    answering = problem.slots[-3]
    sentence = max(text.rfind(opening) for opening in answering.readings)
    numbers = re.findall(r"\d+", text[sentence:]) if sentence >= 0 else []
    return bool(numbers) and int(numbers[-1]) == problem.answer
