"""Labels by a function: the demo's exact checker, and a user's own module.

It would catch: a mistake marked a character off, a problem that another seed or world draws, an unfinished answer that
gets a verdict, a label of a person overwritten, a function's failure that loses the answers or ends in a traceback.
"""

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.demo.choices import World
from vllm_judge.demo.world import problem_stream, solution
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict, read_court
from vllm_judge.tokencourt.questions import Question

DEMO = "vllm_judge.demo.court:label"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def answer(text: str, question: str, name: str = "1", **label: object) -> Answer:
    return Answer(id=name, messages=[Message(role="user", content=question)], answer=text, model="someone", **label)


@pytest.mark.parametrize("world", list(World))
def test_the_demos_questions_are_labelled_to_the_character(world, tmp_path):
    questions, court, labelled = (tmp_path / f"{name}.jsonl" for name in ("questions", "court", "labelled"))
    assert run("court", "questions", "demo", "--config", world, "--limit", 3, "-o", questions)[0] == 0
    [first, *_] = asked = records.read(questions, Question)
    problem = next(problem_stream(5, "train", world))
    assert first.messages[0].content == problem.question and first.reference == str(problem.answer)
    right = solution(problem, 0.5, random.Random(0))
    place = right.rindex(str(problem.answer))
    wrong = right[:place] + "x" + right[place:]
    people = Span(start=0, end=1)
    answers = [
        answer(right, problem.question, "right"),
        answer(wrong, problem.question, "wrong"),
        answer(right[:-3], problem.question, "unfinished"),
        answer(right, problem.question, "labelled", verdict="wrong", mistake=people, labelled_by="a person"),
    ]
    records.write(court, answers)
    code, said = run("label", "function", court, DEMO, "-o", labelled)
    assert code == 0 and "4 answers" in said and "1 right, 2 wrong, 1 unknown" in said
    after = {one.id: one for one in read_court(labelled)}
    assert (after["right"].verdict, after["right"].labelled_by) == (Verdict.right, "demo")
    assert after["wrong"].mistake == Span(start=place, end=place + 1)
    assert after["unfinished"].verdict == Verdict.unknown
    assert after["labelled"].mistake == people
    assert len({one.messages[0].content for one in asked}) == 3


def test_a_function_of_ones_own_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "shouting.py").write_text(
        "def label(answer):\n    return answer.labelled('wrong' if answer.answer.isupper() else 'right', 'quiet')\n"
    )
    records.write(tmp_path / "court.jsonl", [answer("LOUD", "?", "1"), answer("low", "?", "2")])
    monkeypatch.chdir(tmp_path)
    code, said = run("label", "function", "court.jsonl", "shouting:label", "-o", "labelled.jsonl")
    assert code == 0, said
    assert [one.verdict for one in read_court(Path("labelled.jsonl"))] == [Verdict.wrong, Verdict.right]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "nowhere:label",
            "is no function MODULE:NAME that can be imported: ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("json:nothing", "is no function MODULE:NAME that can be imported"),
        ("json:__name__", "is no function."),
        ("json:loads", "json:loads fails on '1': TypeError"),
        ("builtins:str", "must return the answer that it is given"),
        (DEMO, "the question of '1' is none of `court questions demo`"),
    ],
)
def test_a_function_that_is_of_no_use_is_said_in_one_sentence(name, sentence, tmp_path):
    records.write(tmp_path / "court.jsonl", [answer("It is 2.", "What is 1 + 1?")])
    code, said = run("label", "function", tmp_path / "court.jsonl", name, "-o", tmp_path / "labelled.jsonl")
    assert code == 1 and sentence in said and said.count("vllm-judge:") == 1
    assert not (tmp_path / "labelled.jsonl").exists()


def test_other_worlds_and_splits_are_refused(tmp_path):
    code, said = run("court", "questions", "demo", "--split", "dev", "-o", tmp_path / "questions.jsonl")
    assert code == 1 and "have the configurations easy, harder and the splits train, test, found None and dev." in said
