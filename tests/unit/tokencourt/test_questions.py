"""What questions are made of, what tells them apart, and what `-o` may write to.

It would catch: two files' questions taken for one another, a missing reference taken for the text "None", a reference
that makes every answer wrong, a row or an option passed over in silence, an output written over what it is not.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.answers import Job
from vllm_judge.tokencourt.court import Answer, Message, Verdict, read_court
from vllm_judge.tokencourt.questions import Question, read_questions

NUMBERS = ("--reference-field", "answer", "--check", "number")


def vllm_judge(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    lines = [line for line in result.output.splitlines(keepends=True) if "━" not in line]
    return result.exit_code, "".join(lines)


def rows(path: Path, *values: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def made(path: Path, *values: object, options: tuple[str, ...] = NUMBERS) -> tuple[int, str]:
    return vllm_judge("court", "questions", rows(path, *values), *options, "-o", path.with_name("questions.jsonl"))


SEVEN, TWENTY = {"question": "How many are 3 and 4?", "answer": "7"}, {"question": "10 and 10?", "answer": "20"}


def test_a_question_is_itself_in_every_file_and_no_other(tmp_path):
    assert made(tmp_path / "a" / "train.jsonl", SEVEN)[0] == 0
    assert made(tmp_path / "b" / "train.jsonl", TWENTY, SEVEN)[0] == 0
    [seven] = read_questions(tmp_path / "a" / "questions.jsonl")
    twenty, again = read_questions(tmp_path / "b" / "questions.jsonl")
    assert seven.id == again.id != twenty.id
    assert (seven.source, again.source) == ("train/0", "train/1")


def test_a_file_of_ids_by_position_is_read_on_with_its_answers_and_seeds():
    """As version 0.1 wrote them: ids were what `source` is now, and seeds hang on it."""
    chat = [Message(role="user", content="How many are 3 and 4?")]
    before = Question(id="train/0", messages=chat, split="train")
    now = Question(id="3e79236704f051ae", source="train/0", messages=chat, split="train")
    old, new = (Job(question, "m", 0.7, 1) for question in (before, now))
    assert old.id == "train/0#m#t0.7#1" != new.id
    assert old.seed == new.seed


def test_an_answer_to_another_question_under_the_same_id_is_refused(tmp_path):
    chat = [Message(role="user", content="Something else?")]
    records.write(tmp_path / "court.jsonl", [Answer(id="q#m#t0.7#0", messages=chat, answer="7", model="m")])
    question = {"id": "q", "messages": [{"role": "user", "content": "How many?"}], "split": "train"}
    path = rows(tmp_path / "q.jsonl", question)
    options = ("--model", "m", "--endpoint", "http://127.0.0.1:9/v1")
    code, said = vllm_judge("court", "answers", path, "-o", tmp_path / "court.jsonl", *options)
    assert (code, said.count("\n")) == (1, 1)
    assert "holds another question's answer under the id 'q#m#t0.7#0'" in said


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        ({"question": None, "answer": "3"}, "row 1 of my does not have the expected layout: ValueError: question is"),
        ({"question": "How many \ud83d?", "answer": "3"}, "row 1 of my: content: holds half a character"),
        ({"question": "How many?", "answer": "3 \ud83d"}, "row 1 of my: reference: holds half a character"),
        ({"question": ["How many?"], "answer": "3"}, "question must be text or a number, found list"),
        ({"question": " ", "answer": "3"}, "row 1 of my: its question is empty"),
        ({"question": "Who?", "answer": "Ann"}, "row 1 of my: its reference 'Ann' cannot be read by the check number"),
        ({"question": "Who?", "answer": "4a-2"}, "its reference '4a-2' cannot be read by the check number"),
        ([1], "row 1 of my does not have the expected layout: TypeError"),
        (1, "row 1 of my does not have the expected layout: TypeError"),
    ],
)
def test_a_row_that_makes_no_question_is_one_sentence(tmp_path, row, finding):
    code, said = made(tmp_path / "my.jsonl", SEVEN, row)
    assert (code, said.count("\n")) == (1, 1)
    assert finding in said
    assert not (tmp_path / "questions.jsonl").exists()


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"question": ' * 20_000])
def test_json_beyond_what_can_be_read_is_one_sentence(tmp_path, text):
    path = tmp_path / "my.jsonl"
    path.write_text(text + "\n")
    for command in (("court", "questions", path, "-o", tmp_path / "q.jsonl"), ("court", "check", path)):
        code, said = vllm_judge(*command)
        assert code == 1
        assert said.count("\n") <= 2 and "not JSON" in said


def test_what_is_left_out_is_said(tmp_path):
    again, other = {**SEVEN, "question": "how many are 3  and 4?"}, {**SEVEN, "answer": "8"}
    none = {"question": "How many?", "answer": None}
    code, said = made(tmp_path / "my.jsonl", SEVEN, again, other, none)
    assert code == 0
    assert said.splitlines()[0].startswith("2 questions in ")
    assert "warning: 1 of them have no reference" in said
    assert "warning: 2 rows left out: they ask what an earlier row asks." in said
    assert "warning: 1 of these give another reference than the earlier row: 2." in said
    assert [one.reference for one in read_questions(tmp_path / "questions.jsonl")] == ["7", None]


def test_a_file_is_read_or_refused_and_never_looked_up(tmp_path):
    packed, table, out = tmp_path / "my.jsonl.gz", tmp_path / "my.csv", tmp_path / "q.jsonl"
    packed.write_bytes(gzip.compress(json.dumps(SEVEN).encode()))
    table.write_text("question,answer\nHow many?,3\n")
    assert vllm_judge("court", "questions", packed, *NUMBERS, "-o", out)[0] == 0
    assert read_questions(out)[0].source == "my/0"
    code, said = vllm_judge("court", "questions", table, *NUMBERS, "-o", tmp_path / "r.jsonl")
    assert (code, said.count("\n")) == (1, 1)
    assert f"{table} is none of .jsonl, .json, .jsonl.gz, .json.gz" in said


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        (("--layout", "gsm8k", "--check", "number"), "the layout of gsm8k knows its fields and its check"),
        (("--check", "number"), "--check compares with a reference: give --reference-field too."),
        (("--split", "test"), "is a file: --config and --split are for datasets."),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, options, finding):
    code, said = made(tmp_path / "my.jsonl", SEVEN, options=options)
    assert (code, said.count("\n")) == (1, 1)
    assert finding in said


def test_an_empty_input_is_one_sentence(tmp_path):
    empty, out = tmp_path / "empty.jsonl", tmp_path / "out.jsonl"
    empty.write_text("")
    for command in (
        ("court", "questions", empty),
        ("court", "answers", empty, "--model", "m"),
        ("label", "answers", empty),
        ("label", "mine", empty, "--target", "t", "--draft", "d"),
        ("label", "self", empty, "--target", "t", "--draft", "d"),
    ):
        code, said = vllm_judge(*command, "-o", out)
        assert (code, said.count("\n")) == (1, 1), said
        assert f"{empty} holds no " in said
        assert not out.exists()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind, and one of somebody else's."""
    chat = [Message(role="user", content="How many are 3 and 4?")]
    task = {"metadata": {"reference": "7", "check": "number"}}
    court = [Answer(id="a", messages=chat, answer="The answer is 7.", model="m", **task)]
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("rows", "questions", "court", "people")}
    rows(paths["rows"], SEVEN)
    assert vllm_judge("court", "questions", paths["rows"], *NUMBERS, "-o", paths["questions"])[0] == 0
    records.write(paths["court"], court)
    records.write(paths["people"], [court[0].labelled(Verdict.right, "alice")])
    paths["text"] = tmp_path / "notes.txt"
    paths["text"].write_text("dear diary\nnot finished")
    return paths


COMMANDS = {
    "questions": ("court", "questions", "rows", *NUMBERS),
    "answers": ("court", "answers", "questions", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1"),
    "labels": ("label", "answers", "court"),
    "llm": ("label", "llm", "court", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1"),
    "mine": ("label", "mine", "questions", "--target", "t", "--draft", "d"),
    "self": ("label", "self", "questions", "--target", "t", "--draft", "d"),
}


@pytest.mark.parametrize(
    ("command", "output"),
    [
        *(("questions", output) for output in ("rows", "court", "text")),
        *(("answers", output) for output in ("questions", "text")),
        *(("labels", output) for output in ("questions", "text", "people")),
        *(("llm", output) for output in ("court", "questions", "text")),
        *(("mine", output) for output in ("questions", "text")),
        *(("self", output) for output in ("questions", "text")),
    ],
)
def test_an_output_that_is_not_the_commands_own_is_refused_and_stays_as_it_is(files, command, output):
    before = {path: path.read_bytes() for path in files.values()}
    arguments = [files.get(word, word) if index == 2 else word for index, word in enumerate(COMMANDS[command])]
    code, said = vllm_judge(*arguments, "-o", files[output])
    assert (code, said.count("\n")) == (1, 1), said
    assert "choose another file with -o" in said
    assert {path: path.read_bytes() for path in files.values()} == before
    assert sorted(files["text"].parent.iterdir()) == sorted(files.values())


def test_an_output_of_its_own_is_gone_on_with(files):
    rows(files["rows"], SEVEN, TWENTY)
    code, said = vllm_judge("court", "questions", files["rows"], *NUMBERS, "-o", files["questions"])
    assert code == 0 and said.startswith("2 questions")
    code, said = vllm_judge("court", "questions", files["rows"], "--limit", 1, *NUMBERS, "-o", files["questions"])
    assert code == 1 and "would be lost" in said
    assert vllm_judge("label", "answers", files["people"], "-o", files["court"])[0] == 0
    assert read_court(files["court"])[0].labelled_by == "alice"


def test_a_folder_that_is_not_yours_is_one_sentence_before_work_begins():
    """As a user without rights, in a child that gives its own up: root may write anywhere."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    path, out = rows(folder / "my.jsonl", SEVEN), folder / "q.jsonl"
    assert vllm_judge("court", "questions", path, "-o", folder / "first.jsonl")[0] == 0  # everything is imported
    folder.chmod(0o555)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        if os.geteuid() == 0:
            os.setuid(65534)
        code, said = vllm_judge("court", "questions", path, "-o", out)
        os.write(writer, f"{code} {said}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    folder.chmod(0o755)
    assert os.read(reader, 10_000).decode() == (
        f"1 vllm-judge: {out} cannot be written: {folder} is not yours to write to.\n"
    )


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    for module, command in {
        "openai": COMMANDS["llm"],
        "math_verify": COMMANDS["labels"],
        "uvicorn": ("label", "annotate", "court", "--annotator", "ann"),
    }.items():
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            "import importlib.util as u; find = u.find_spec\n"
            f"u.find_spec = lambda name, *a: None if name == {module!r} else find(name, *a)\n"
            "from vllm_judge.cli import main; main()"
        )
        metadata = {"reference": "7", "check": "number"}
        chat = [Message(role="user", content="How many?")]
        court = tmp_path / "court.jsonl"
        records.write(court, [Answer(id="a", messages=chat, answer="7.", model="m", metadata=metadata)])
        arguments = [str(court) if word == "court" else word for word in command]
        output = [] if module == "uvicorn" else ["-o", str(tmp_path / "out.jsonl")]
        done = subprocess.run([sys.executable, "-c", code, *arguments, *output], capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if line.startswith("vllm-judge")]
        assert done.returncode == 1
        assert len(said) == 1 and said[0].endswith("pip install 'vllm-judge-decoding[court]'."), said
