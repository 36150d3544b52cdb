"""court.jsonl on a real disk, and the commands that read, check, split and label it.

It would catch: a bad line that stops the check or goes unseen, a line lost to a repair, a full disk or a second writer,
characters counted as bytes or UTF-16 units, a split that depends on the file, a final answer read from the wrong place.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict, read_court
from vllm_judge.tokencourt.questions import Question, split_of

ASKED = [Message(role="user", content="What is 2 + 2?")]


def answer(id: str, text: str = "2 + 2 is 5.", **fields: object) -> Answer:
    return Answer.model_validate({"id": id, "messages": ASKED, "answer": text, "model": "someone", **fields})


def wrong(id: str, text: str, mistake: str) -> Answer:
    start = text.index(mistake)
    span = Span(start=start, end=start + len(mistake))
    return answer(id, text, verdict="wrong", labelled_by="a person", mistake=span)


def vllm_judge(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def court(tmp_path: Path) -> Path:
    path = tmp_path / "court.jsonl"
    answers = [answer("1", verdict="right", labelled_by="a person"), wrong("2", "😀 Zwei und zwei: fünf", "fünf")]
    records.write(path, [*answers, answer("3", "Vier 😀😀😀")])
    return path


def test_what_is_written_is_read_and_spans_count_characters(court):
    answers = read_court(court)
    assert [a.verdict for a in answers] == [Verdict.right, Verdict.wrong, Verdict.unknown]
    span = answers[1].mistake
    assert answers[1].answer[span.start : span.end] == "fünf"
    assert vllm_judge("court", "check", court)[0] == 0


def test_the_check_names_line_field_and_finding_and_changes_nothing(court):
    good = court.read_bytes().splitlines(keepends=True)
    value = json.loads(good[1])
    damaged = [
        good[0],
        json.dumps({**value, "mistake": {"start": 3, "end": 90}}).encode() + b"\n",
        json.dumps({**value, "verdict": "maybe"}).encode() + b"\n",
        json.dumps({**value, "surprise": 1}).encode() + b"\n",
        good[1].replace("fünf".encode(), "fünf".encode("latin-1")),
        b"\n",
        good[0],
        json.dumps({key: value[key] for key in value if key != "model"}).encode() + b"\n",
        good[2],
        good[1][:50],
    ]
    court.write_bytes(b"".join(damaged))
    code, output = vllm_judge("court", "check", court)
    assert code == 1
    found = [line.removeprefix(f"{court}, ") for line in output.splitlines()[:-1]]
    assert found[0] == "line 2: mistake.end is 90, beyond the answer's 21 characters."
    assert found[1] == "line 3: verdict: Input should be 'right', 'wrong' or 'unknown', found 'maybe'."
    assert found[2].startswith("line 4: surprise: ")
    assert found[3].startswith("line 5: byte ") and found[3].endswith("(0xfc) is not UTF-8.")
    assert found[4].startswith("line 6: not JSON")
    assert found[5] == "line 7: id: '1' is the id of line 1 already."
    assert found[6] == "line 8: model: is missing."
    assert found[7].startswith("line 10: the last line is cut off, as by a kill")
    assert output.splitlines()[-1].endswith("2 answers (1 right, 0 localised, 0 wrong, 1 unknown), 8 problems.")
    assert court.read_bytes() == b"".join(damaged)


@pytest.mark.parametrize("cut", [1, 2, *range(65, 85), 190])
def test_a_last_line_cut_anywhere_is_set_aside_and_no_other_is_lost(court, cut, caplog):
    whole = court.read_bytes()
    court.write_bytes(whole[:-cut])
    kept = whole[:-cut].rfind(b"\n") + 1
    if cut > 1:
        with pytest.raises(JudgeError, match="the last line is cut off"):
            read_court(court)
    with records.Appender[Answer](court) as appender:
        appender.append(answer("4"))
    assert len(caplog.records) == 1
    if whole[kept:-cut].endswith(b"}") and cut == 1:
        kept = len(whole)
    else:
        assert court.with_name("court.jsonl.cut").read_bytes() == whole[kept:-cut] + b"\n"
    assert court.read_bytes()[:kept] == whole[:kept]
    assert [a.id for a in read_court(court)][-1] == "4"


def test_repair_is_a_command(court):
    court.write_bytes(court.read_bytes()[:-9])
    assert "check --repair" in vllm_judge("court", "check", court)[1]
    code, output = vllm_judge("court", "check", "--repair", court)
    assert code == 0
    assert "2 answers" in output


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_another_encoding_is_one_sentence(court, encoding):
    court.write_text(court.read_text(), encoding=encoding)
    code, output = vllm_judge("court", "check", court)
    assert code == 1
    assert output.startswith(f"vllm-judge: {court} is UTF-") and output.endswith("save it as plain UTF-8.\n")
    with pytest.raises(JudgeError, match="save it as plain UTF-8"):
        records.Appender[Answer](court)


def test_a_full_disk_loses_nothing(court):
    """The limit on a file's size stands in for the disk's: the write stops in the middle of a record, then fails."""
    code = f"""
import resource, signal
from pathlib import Path
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, read_court

path = Path({str(court)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 500, resource.RLIM_INFINITY))
first = read_court(path)[0]
try:
    with records.Appender[Answer](path) as appender:
        for number in range(100):
            appender.append(first.model_copy(update={{"id": f"more {{number}}"}}))
except JudgeError as error:
    print(number, error)
try:
    records.write(path, [first] * 1000)
except JudgeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    appended, rewritten = done.stdout.splitlines()
    count = int(appended.split()[0])
    assert count > 0
    assert appended.endswith("All lines before are kept; make room and run again.")
    assert rewritten.endswith("It is as it was before.")
    assert [a.id for a in read_court(court)] == ["1", "2", "3", *(f"more {number}" for number in range(count))]
    assert [file.name for file in court.parent.iterdir()] == ["court.jsonl"]


def test_a_second_writer_is_refused(court):
    with records.Appender[Answer](court), pytest.raises(JudgeError, match="another process is writing"):
        records.Appender[Answer](court)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"verdict": "right"}, "labelled_by is missing"),
        ({"mistake": {"start": 0, "end": 1}}, "only a wrong answer has one"),
        ({"verdict": "wrong", "labelled_by": "x", "mistake": {"start": 4, "end": 4}}, "must be greater than start"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "4"}]}, "the last of messages is the assistant's"),
        ({"answer": "\ud83d"}, "half a character"),
    ],
)
def test_an_impossible_label_is_refused(fields, finding):
    with pytest.raises(ValueError, match=finding):
        answer("1", **fields)


def test_the_split_belongs_to_the_question_alone():
    def chats(count: int) -> list[list[Message]]:
        return [[Message(role="user", content=f"Question {number}?")] for number in range(count)]

    held = [split_of(chat) == Split.held_out for chat in chats(5000)]
    assert 0.18 < sum(held) / len(held) < 0.22
    wider = [split_of(chat, 0.5) == Split.held_out for chat in chats(5000)]
    assert all(more for less, more in zip(held, wider, strict=True) if less)
    assert split_of([Message(role="user", content="  question\n7? ")]) == split_of(chats(8)[7])
    # Fixed for good: another split would mix what heads were fitted on with what they are measured on.
    assert [number for number, one in enumerate(held[:30]) if one] == [2, 5, 10, 15, 23, 26]


GSM8K = [
    {"question": "Ann has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    {"question": "A bike costs 1,200. Half of it?", "answer": "1200 / 2 = 600\n#### 600"},
    {"question": "Ann has 3 pens and buys 4. How many?", "answer": "#### 7"},
]
ARC = [
    {
        "id": "q",
        "question": "Which is a gas?",
        "choices": {"text": ["ice", "air"], "label": ["1", "2"]},
        "answerKey": "2",
    }
]
ALPACA = [{"instruction": "Name a colour.", "input": "", "output": "Red", "text": "unused"}]


def test_known_datasets_become_questions_from_a_local_copy(tmp_path):
    for layout, rows in {"gsm8k": GSM8K, "arc": ARC, "alpaca": ALPACA}.items():
        folder, out = tmp_path / layout, tmp_path / f"{layout}.questions.jsonl"
        folder.mkdir()
        Dataset.from_list(rows).to_parquet(folder / "train.parquet")
        code, output = vllm_judge("court", "questions", folder, "--layout", layout, "-o", out)
        assert code == 0, output
    made = {
        layout: records.read(tmp_path / f"{layout}.questions.jsonl", Question) for layout in ("gsm8k", "arc", "alpaca")
    }
    assert [(q.reference, q.check) for q in made["gsm8k"]] == [("7", "number"), ("600", "number")]
    assert made["arc"][0].reference == "B"
    assert "A. ice\nB. air" in made["arc"][0].messages[0].content
    assert made["alpaca"][0].messages[0].content == "Name a colour."
    assert made["alpaca"][0].check is None


def test_a_jsonl_file_gives_the_same_questions_as_a_dataset(tmp_path):
    lines, out = tmp_path / "own.jsonl", tmp_path / "questions.jsonl"
    lines.write_text("".join(json.dumps({"q": f"Say {n}!", "a": n}) + "\n" for n in range(50)))
    options = ("--question-field", "q", "--reference-field", "a", "--check", "exact", "--limit", 40, "-o", out)
    code, output = vllm_judge("court", "questions", lines, *options)
    assert code == 0
    assert output.startswith("40 questions")
    made = records.read(out, Question)
    assert made[3].reference == "3"
    assert all(question.split == split_of(question.messages) for question in made)
    code, output = vllm_judge("court", "questions", lines, "--question-field", "text", "-o", out)
    assert (code, output) == (1, "vllm-judge: row 0 of own does not have the expected layout: KeyError: 'text'.\n")
    assert records.read(out, Question) == made


def test_a_dataset_that_cannot_be_had_is_one_sentence(tmp_path):
    nothing = tmp_path / "nothing"
    code, output = vllm_judge("court", "questions", nothing, "-o", tmp_path / "q.jsonl")
    assert code == 1
    assert output.startswith(f"vllm-judge: the dataset {nothing} (split train) cannot be loaded: ")
    assert output.count("\n") == 1


def test_final_answers_give_verdicts_and_leave_labels_alone(tmp_path):
    path, out = tmp_path / "court.jsonl", tmp_path / "checked.jsonl"
    task = {"metadata": {"reference": "1,000", "check": "number"}}
    cut = {"metadata": {**task["metadata"], "finish_reason": "length"}}
    marked = wrong("marked", "The answer is 1000", "1000")
    records.write(
        path,
        [
            answer("right", "The final answer is $1000.", **task),
            answer("wrong", "The final answer is 100.", **task),
            answer("none", "No idea.", **task),
            answer("cut", "1000, or", **cut),
            answer("free", "1000"),
            marked,
        ],
    )
    code, output = vllm_judge("label", "answers", path, "-o", out)
    assert code == 0
    assert ("1 answers are right and 1 wrong by their final answer; of 3 it cannot be told.") in output
    labelled = {a.id: a for a in read_court(out)}
    assert (labelled["right"].verdict, labelled["right"].labelled_by) == (Verdict.right, "final-answer:number")
    assert (labelled["wrong"].verdict, labelled["wrong"].mistake) == (Verdict.wrong, None)
    assert {labelled[id].verdict for id in ("none", "cut", "free")} == {Verdict.unknown}
    assert labelled["marked"] == marked


def test_a_label_command_may_write_over_its_own_file(court):
    before = os.stat(court).st_ino
    assert vllm_judge("label", "answers", court, "-o", court)[0] == 0
    assert len(read_court(court)) == 3
    assert os.stat(court).st_ino != before
