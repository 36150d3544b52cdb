"""The demo's word problems in TokenCourt: questions for `court questions demo`, labels for `label function`."""

from collections.abc import Iterator
from itertools import islice

from vllm_judge.demo.choices import World
from vllm_judge.demo.grammar import Problem, first_mistake
from vllm_judge.demo.world import problem_stream
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Answer, Span, Verdict

SPLITS = ("train", "test")
QUESTIONS = 5_000  # of each world and split
SEED = 5


def rows(world: str | None, split: str) -> Iterator[dict[str, str]]:
    """Problems as rows with `question` and `answer`.

    Args:
        world: easy, which None is, or harder.
        split: train or test; the demo's models were trained on problems of the first.

    Raises:
        JudgeError: there is no such world or split.
    """
    worlds = list(World)
    if world not in (None, *worlds) or split not in SPLITS:
        raise JudgeError(
            f"the demo's questions have the configurations {', '.join(worlds)} and the splits {', '.join(SPLITS)}, "
            f"found {world} and {split}."
        )
    for problem in _problems(World(world or World.EASY), split):
        yield {"question": problem.question, "answer": str(problem.answer)}


def label(answer: Answer) -> Answer:
    """The answer with its exact label; one that is right so far and ends too early stays as it is.

    The mistake is the first character that no right solution has there, which marks the token that holds it.

    Raises:
        JudgeError: the question is none of the demo's.
    """
    problem = _problem(answer)
    mistake = first_mistake(problem, answer.answer)
    if mistake is None:
        return answer.labelled(Verdict.right, "demo")
    if mistake == len(answer.answer):
        return answer
    return answer.labelled(Verdict.wrong, "demo", Span(start=mistake, end=mistake + 1))


def _problems(world: World, split: str) -> Iterator[Problem]:
    return islice(problem_stream(SEED, split, world), QUESTIONS)


_drawn: dict[str, Problem] = {}  # by question
_undrawn = (problem for world in World for split in SPLITS for problem in _problems(world, split))


def _problem(answer: Answer) -> Problem:
    """What an answer answers: a question does not hold the whole problem, so problems are drawn until it comes up."""
    asked = answer.messages[-1].content
    while asked not in _drawn:
        problem = next(_undrawn, None)
        if problem is None:
            raise JudgeError(f"the question of {answer.id!r} is none of `court questions demo`.")
        _drawn[problem.question] = problem
    return _drawn[asked]
