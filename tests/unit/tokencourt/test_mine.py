"""The search for the draft's tokens that matter, step by step, and what `label mine` refuses before an engine starts.

It would catch: a label on the target's token instead of the draft's, a swap that is lost or kept against the final
answer, a mismatch examined twice or passed over, an end token taken for text, a label on what could not be told.
"""

from pathlib import Path

import pytest
from chat_model import make_chat_model
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.demo import trio
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Message, Verdict
from vllm_judge.tokencourt.label.pair import Written
from vllm_judge.tokencourt.label.search import CUT, SPECIAL, Names, Search
from vllm_judge.tokencourt.masks import label_tokens
from vllm_judge.tokencourt.questions import Question

DRAFT = str(Path(trio.TARGET).with_name("draft"))
QUESTION = Question(
    id="q/1",
    messages=[Message(role="user", content="Tom has 5 pens. Tom gets 4. How many pens does Tom have now?")],
    split=Split.train,
    reference="9",
    check=Check.number,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(trio.TARGET)


class Played:
    """A search whose two models say what the test makes them say, in text; `#` is the end token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int = 40):
        self.tokenizer = tokenizer
        self.search = Search(QUESTION, [7], Names("target", "draft", tokenizer), max_tokens)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text.replace("#", self.tokenizer.eos_token), add_special_tokens=False)

    def target_writes(self, text: str, ended: bool = True) -> None:
        self.search.take(Written(self.ids(text), ended))

    def draft_would_write(self, text: str) -> None:
        assert self.search.needs_draft
        ids = self.ids(text)
        assert len(ids) == len(self.search.ids)
        self.search.compare(ids)

    @property
    def beginning(self) -> str:
        self.search.go_on()
        return self.tokenizer.decode(self.search.beginning)


def test_a_swap_stays_where_the_final_answer_does_and_is_a_mistake_where_it_changes(tokenizer):
    played = Played(tokenizer)
    played.target_writes(" 5 + 4 = 9. The answer is 9#")
    played.draft_would_write(" 5 plus 3 = 8. The answer is 9#")
    assert played.beginning == " 5 plus"
    played.target_writes(" 4 equals 9. The answer is 9#")
    played.draft_would_write(" 5 plus 3 makes 9. The answer is 8#")
    assert played.beginning == " 5 plus 3"
    played.target_writes(" = 8. The answer is 8#")
    assert not played.search.needs_draft
    assert played.beginning == " 5 plus 4 makes"
    played.target_writes(" 9. The answer is 9#")
    played.draft_would_write(" 5 plus 3 makes 9. The answer is 8#")
    assert played.beginning == " 5 plus 4 makes 9. The answer is 8"
    played.target_writes("#")
    played.search.go_on()
    assert played.search.over
    first, second, final = played.search.answers()
    assert (final.answer, final.verdict) == (" 5 plus 4 makes 9. The answer is 9", Verdict.right)
    assert (final.metadata["examined"], final.metadata["important"]) == (4, 2)
    assert first.answer == " 5 plus 3" and first.metadata["instead_of"] == "4"
    assert second.answer == " 5 plus 4 makes 9. The answer is 8"
    for important in (first, second):
        assert important.labelled_by == "mine:draft" and important.model == "target"
        tokens = label_tokens(important, tokenizer)
        assert tokens.labels == [-1] * (len(tokens.ids) - 1) + [0]
    assert set(label_tokens(final, tokenizer).labels) == {1}


def test_going_on_behind_the_end_is_examined_and_ending_is_not(tokenizer):
    played = Played(tokenizer)
    played.target_writes(" The answer is 9#")
    played.draft_would_write(" The answer is#9 pens")
    assert played.beginning == " The answer is 9 pens"
    assert played.search.left_out == {SPECIAL: 1}
    played.target_writes("#")
    played.draft_would_write(" The answer is 9 pens#")
    played.search.go_on()
    assert played.search.over
    assert [answer.answer for answer in played.search.answers()] == [" The answer is 9 pens"]


def test_nothing_is_said_of_a_token_behind_which_the_answer_does_not_end(tokenizer):
    played = Played(tokenizer, max_tokens=len(tokenizer.encode(" The answer is 9")) + 1)
    played.target_writes(" The answer is 9#")
    played.draft_would_write(" The total is 9.")
    assert played.beginning == " The total"
    assert played.search.room == len(played.search.ids) - 2
    played.target_writes(" is 9.", ended=False)
    played.search.go_on()
    assert played.search.over and played.search.left_out == {CUT: 2}
    assert [answer.answer for answer in played.search.answers()] == [" The answer is 9"]


@pytest.mark.parametrize(
    ("text", "ended", "verdict"),
    [(" The answer is 8#", True, Verdict.wrong), (" The answer is 9", False, Verdict.unknown)],
)
def test_an_answer_that_is_not_right_is_kept_and_not_searched(tokenizer, text, ended, verdict):
    played = Played(tokenizer)
    played.target_writes(text, ended)
    assert not played.search.needs_draft
    played.search.go_on()
    assert played.search.over
    [answer] = played.search.answers()
    assert (answer.verdict, answer.mistake, answer.id) == (verdict, None, "q/1#target#draft")


def refused(folder: Path, question: Question, **names: str) -> str:
    path = folder / "questions.jsonl"
    records.write(path, [question])
    named = {"target": str(trio.TARGET), "draft": DRAFT, **names}
    options = [word for name, value in named.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["label", "mine", str(path), "-o", str(folder / "mined.jsonl"), *options])
    assert result.exit_code == 1
    assert not (folder / "mined.jsonl").exists()
    return result.output


def test_a_missing_draft_is_refused(tmp_path):
    assert refused(tmp_path, QUESTION, draft=f"{tmp_path}/none") == (
        f"vllm-judge: --draft must be a model's folder or repository: there is no folder {tmp_path}/none.\n"
    )


def test_a_draft_with_other_tokens_is_refused(tmp_path):
    other = str(make_chat_model(tmp_path / "other"))
    assert refused(tmp_path, QUESTION, draft=other) == (
        f"vllm-judge: {trio.TARGET} and {other} have different vocabularies: a draft must use its target's tokens.\n"
    )


def test_questions_without_a_checkable_answer_are_refused(tmp_path):
    assert refused(tmp_path, QUESTION.model_copy(update={"check": None})) == (
        "vllm-judge: no question has a reference and a check: without them nobody can tell whether a final answer "
        "changes (see --reference-field and --check of `court questions`).\n"
    )
