"""SelfJudge's score and what is made of it, step by step, and what `label self` refuses before an engine starts.

It would catch: a token of the text before or behind the window in the score, an answer's end that counts as a fall, a
bound on the wrong side, a label on the target's token instead of the draft's or on what stands before it, a label
between the bounds, labels by two kinds of bounds in one file.
"""

from pathlib import Path

import pytest
from chat_model import make_chat_model
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.demo import trio
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Message, Verdict
from vllm_judge.tokencourt.label.likelihood import Bounds, Scoring, fall
from vllm_judge.tokencourt.label.pair import Place, Written
from vllm_judge.tokencourt.label.search import SPECIAL, Names
from vllm_judge.tokencourt.masks import label_tokens
from vllm_judge.tokencourt.questions import Question

DRAFT = str(Path(trio.TARGET).with_name("draft"))
BOUNDS = Bounds(0.5, 1.0)
OPEN = Question(id="q/1", messages=[Message(role="user", content="What are 5 and 4?")], split=Split.train)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(trio.TARGET)


class Played:
    """A scoring whose two models say what the test makes them say, in text; `#` is the end token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answer: str, draft: str, window: int, question=OPEN):
        self.scoring = Scoring(question, [7], Names("target", "draft", tokenizer), window, BOUNDS)
        ids, draft_ids = (
            tokenizer.encode(text.replace("#", tokenizer.eos_token), add_special_tokens=False)
            for text in (answer, draft)
        )
        self.scoring.take(Written(ids, answer.endswith("#"), [0.0] * len(ids)))
        if self.scoring.mined:
            self.scoring.compare(draft_ids)
        self.texts = [(tokenizer.decode(text[1:]), count) for text, count in self.scoring.texts()]

    def fall_by(self, *falls: float) -> None:
        """The target finds the draft's tokens less likely by so much in all, and is as sure of the rest as before."""
        counts = [count for _, count in self.texts]
        self.scoring.score(
            [Place(-by, 0.0)] + [Place(-9.0, 0.0)] * (count - 1) for by, count in zip(falls, counts, strict=True)
        )


def test_the_fall_is_of_the_swapped_token_and_of_how_sure_the_target_is_behind_it():
    before = [-0.5, -0.25, -0.25]
    after = [Place(-3.5, -0.125), Place(-20.0, -1.25), Place(-0.75, -0.75)]
    assert fall(before, after, window=2) == (3.0 + 1.0 + 0.5) / 3
    assert fall(before, [Place(-0.5, -0.5), *[Place(-1.0, 0.0)] * 2], window=2) == -0.5 / 3


def test_nothing_falls_behind_the_end_of_an_answer():
    assert fall([-0.5, -0.25], [Place(-3.5, -0.5), Place(-2.0, -1.25)], window=7) == (3.0 + 1.0) / 8
    assert fall([-0.5], [Place(-3.5, -0.5)], window=7) == 3.0 / 8


def test_bounds_belong_to_their_labels_and_nothing_is_said_between_them():
    assert [BOUNDS.important(by) for by in (-1.0, 0.5, 0.75, 1.0, 9.0)] == [False, False, None, True, True]
    assert [Bounds(0.5, 0.5).important(by) for by in (0.5, 0.50001)] == [False, True]
    with pytest.raises(JudgeError, match=r"--right-to 1 must not be above --wrong-from 0\.5"):
        Bounds(1.0, 0.5)


def test_a_text_has_the_drafts_token_and_the_answers_next_ones_as_far_as_the_window_or_the_end(tokenizer):
    played = Played(tokenizer, " 5 + 4 = 9. The answer is 9#", " 5 plus 4 = 8. The answer is 9 pens", window=3)
    assert played.texts == [(" 5 plus 4 =", 4), (" 5 + 4 = 8. The answer", 4), (" 5 + 4 = 9. The answer is 9 pens", 1)]


def test_a_small_fall_is_right_a_large_one_wrong_and_between_them_is_no_example(tokenizer):
    played = Played(tokenizer, " 5 + 4 = 9. The answer is 9#", " 5 plus 4 = 8. The total is 9#", window=1)
    played.fall_by(0.5, 2.5, 1.5)
    right, wrong, between, final = played.scoring.answers()
    assert [line.answer for line in (right, wrong, between)] == [" 5 plus", " 5 + 4 = 8", " 5 + 4 = 9. The total"]
    assert [line.metadata["fall"] for line in (right, wrong, between)] == [0.25, 1.25, 0.75]
    assert [line.metadata["instead_of"] for line in (right, wrong, between)] == [" +", "9", " answer"]
    for line, verdict, label, labelled_by in (
        (right, Verdict.right, 1, "self:draft"),
        (wrong, Verdict.wrong, 0, "self:draft"),
        (between, Verdict.unknown, -1, None),
    ):
        assert (line.verdict, line.labelled_by, line.model) == (verdict, labelled_by, "target")
        labels = label_tokens(line, tokenizer).labels
        assert labels == [-1] * (len(labels) - 1) + [label]
    assert (final.answer, final.verdict, final.id) == (
        " 5 + 4 = 9. The answer is 9",
        Verdict.right,
        "q/1#target#draft#self",
    )
    assert set(label_tokens(final, tokenizer).labels) == {1}


def test_a_special_token_is_not_scored(tokenizer):
    played = Played(tokenizer, " The answer is 9#", " The answer is#9 pens", window=5)
    assert played.scoring.left_out == {SPECIAL: 1}
    assert played.texts == [(" The answer is 9 pens", 1)]


def test_an_answer_that_a_check_calls_wrong_is_kept_and_not_scored(tokenizer):
    asked = OPEN.model_copy(update={"reference": "9", "check": Check.number})
    played = Played(tokenizer, " The answer is 8#", " The answer is 9#", window=5, question=asked)
    assert played.texts == []
    [answer] = played.scoring.answers()
    assert (answer.verdict, answer.mistake) == (Verdict.wrong, None)
    assert Played(tokenizer, " The answer is 9#", " The answer is 8#", window=5, question=asked).scoring.mined


def label_self(folder: Path, *options: str, **names: str) -> tuple[int, str]:
    path, output = folder / "questions.jsonl", folder / "labelled.jsonl"
    records.write(path, [OPEN])
    named = {"target": str(trio.TARGET), "draft": DRAFT, **names}
    words = [word for name, value in named.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["label", "self", str(path), "-o", str(output), *words, *options])
    return result.exit_code, result.output


def test_a_missing_draft_is_refused(tmp_path):
    none = f"{tmp_path}/none"
    code, said = label_self(tmp_path, draft=none)
    assert (code, said) == (
        1,
        f"vllm-judge: --draft must be a model's folder or repository: there is no folder {none}.\n",
    )


def test_a_draft_with_other_tokens_is_refused(tmp_path):
    other = str(make_chat_model(tmp_path / "other"))
    code, said = label_self(tmp_path, draft=other)
    assert (code, said.count("\n")) == (1, 1)
    assert f"{trio.TARGET} and {other} have different vocabularies" in said


def test_a_window_without_a_token_is_refused(tmp_path):
    code, said = label_self(tmp_path, "--window", "0")
    assert code == 2 and "--window" in said and "greater than or equal to 1" in said


def test_bounds_the_wrong_way_round_are_refused(tmp_path):
    code, said = label_self(tmp_path, "--right-to", "0.3", "--wrong-from", "0.2")
    assert (code, said) == (1, "vllm-judge: --right-to 0.3 must not be above --wrong-from 0.2.\n")


def test_a_file_by_other_bounds_is_refused_and_stays_as_it_is(tmp_path, tokenizer):
    played = Played(tokenizer, " 9#", " 8#", window=1)
    played.fall_by(3.0)
    output = tmp_path / "labelled.jsonl"
    records.write(output, list(played.scoring.answers()))
    before = output.read_bytes()
    code, said = label_self(tmp_path, "--window", "1", "--right-to", "0.25", "--wrong-from", "1")
    assert (code, said) == (
        1,
        f"vllm-judge: {output} holds labels by --window 1 --right-to 0.5 --wrong-from 1: give the same ones, or "
        "another file with -o.\n",
    )
    assert output.read_bytes() == before
