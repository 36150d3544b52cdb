"""The questions of recipes/smollm2, and what is called right and wrong of their answers.

It would catch: a question that both the student and a test has, a passage that does not hold its answer, or another
value of that kind without saying so, a label that marks another place than the wrong value.
"""

import importlib.util
import itertools
import random
import sys
from pathlib import Path

import pytest

from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict
from vllm_judge.tokencourt.final_answer import is_readable, verdict_on

FILE = Path(__file__).parents[2] / "recipes/smollm2/passages.py"
SEEN = 400


@pytest.fixture(scope="module")
def passages():
    spec = importlib.util.spec_from_file_location("passages", FILE)
    assert spec and spec.loader
    sys.modules["passages"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["passages"]


def drawn(passages, part, seed=0):
    return list(itertools.islice(passages.questions(part, seed), SEEN))


def test_parts_share_no_question_and_stay_what_they_are(passages):
    parts = {part: {asked.text for asked in drawn(passages, part)} for part in ("head", "test", "student")}
    assert all(len(texts) == SEEN for texts in parts.values())
    assert not parts["head"] & parts["test"] and not (parts["head"] | parts["test"]) & parts["student"]
    for part, texts in parts.items():
        assert {passages.part_of(text) for text in texts} == {part}
        assert texts == {asked.text for asked in drawn(passages, part)}


def test_a_passage_holds_its_answer_and_no_other_value_but_the_strangers(passages):
    asked = drawn(passages, "head")
    for one in asked:
        passage = one.text.partition("Passage: ")[2].partition("\n")[0]
        assert one.kind.fact.format(n=one.name, v=one.right) in passage
        held = {value for value in one.kind.values if f" {value}" in passage}
        assert held == {one.right, one.stranger} - {None}
        assert is_readable(one.reference, Check.names)
    share = sum(one.stranger is not None for one in asked) / SEEN
    assert abs(share - passages.WITH_STRANGER) < 0.1


def test_the_student_learns_right_answers_and_wrong_ones_in_words_that_the_check_reads(passages):
    rng, asked = random.Random(0), drawn(passages, "student")
    verdicts = [verdict_on(one.said(rng), one.reference, Check.names) for one in asked]
    assert set(verdicts) == {Verdict.right, Verdict.wrong}
    assert 0.6 < verdicts.count(Verdict.right) / SEEN < 0.9


@pytest.mark.parametrize(
    ("text", "verdict", "mistake"),
    [
        ("The city that Anna calls home is Oslo.", Verdict.right, None),
        ("Anna lives in Rome, or in Lima.", Verdict.wrong, "Rome"),
        ("Anna lives in Rome, not in Oslo.", Verdict.wrong, "Rome"),
        ("Anna lives in Oslo, not in Rome.", Verdict.unknown, None),
        ("Anna lives in Norway.", Verdict.unknown, None),
    ],
)
def test_the_mistake_is_the_first_value_that_is_not_the_right_one(passages, text, verdict, mistake):
    chat = [Message(role="user", content="Where?")]
    answer = Answer(id="a", messages=chat, answer=text, model="m", metadata={"reference": "Oslo | Rome | Lima"})
    labelled = passages.label(answer)
    start = text.find(mistake) if mistake else 0
    assert labelled.verdict == verdict
    assert labelled.mistake == (Span(start=start, end=start + len(mistake)) if mistake else None)
