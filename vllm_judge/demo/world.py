"""A small world of arithmetic word problems: endless fresh problems, worded solutions, and a checker that is exact."""

import random
import re
import zlib
from collections.abc import Iterator

from vllm_judge.demo.families import ANSWERS, draw
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

ANSWER_OPENINGS = tuple(opening for style in ANSWERS for opening in style)


def problems(n: int, seed: int, split: str) -> list[Problem]:
    """`n` problems of one split ("train" or "test"), the same for the same seed."""
    stream = problem_stream(seed, split)
    return [next(stream) for _ in range(n)]


def problem_stream(seed: int, split: str) -> Iterator[Problem]:
    """Endless problems of one split; a problem belongs to the same split whatever the seed."""
    rng = random.Random(f"{split} {seed}")
    while True:
        problem = draw(rng)
        if problem is not None and split_of(problem) == split:
            yield problem


def split_of(problem: Problem) -> str:
    """The split that a problem belongs to, by its text: one in eight is kept for tests."""
    return "train" if zlib.crc32(problem.question.encode()) % 8 else "test"


def solution(problem: Problem, style_b: float, rng: random.Random) -> str:
    """A right solution; every slot is in style B with probability `style_b`."""
    return "".join(solution_pieces(problem, style_b, rng))


def solution_pieces(problem: Problem, style_b: float, rng: random.Random) -> list[str]:
    """The readings of a right solution, one per slot."""
    return [rng.choice(slot.styles[rng.random() < style_b]) for slot in problem.slots]


def is_correct(problem: Problem, text: str) -> bool:
    """Whether the text comes to the answer: the last number of its last answering sentence is right."""
    sentence = max(text.rfind(opening) for opening in ANSWER_OPENINGS)
    numbers = re.findall(r"\d+", text[sentence:]) if sentence >= 0 else []
    return bool(numbers) and int(numbers[-1]) == problem.answer
