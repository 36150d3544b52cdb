"""Answers and labels over real HTTP, from a small server that speaks OpenAI's protocol and misbehaves on request.

It would catch: an answer lost or written twice over a kill, a failure that ends the run or goes uncounted, a dead
server asked to the end, a limit on concurrency that does not hold, a quotation taken for a place where it is not.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from typer.testing import CliRunner

from vllm_judge.cli import app as vllm_judge_app
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict, read_court
from vllm_judge.tokencourt.endpoint import Choice
from vllm_judge.tokencourt.label.answers import final_verdict
from vllm_judge.tokencourt.label.llm import Refusal, apply
from vllm_judge.tokencourt.questions import Question

TOTAL = 60


class Server:
    """The model's name says how the server behaves; every request is counted."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_level="warning"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        model, question = body["model"], body["messages"][-1]["content"]
        key = f"{model} {question} {body.get('seed')}"
        self.asked[key] += 1
        self.bodies.append(body)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0.02)
            return await self.reply(model, question, body, self.asked[key])
        finally:
            self.under_way -= 1

    async def reply(self, model: str, question: str, body: dict[str, Any], attempt: int) -> Any:
        text = f"{question} The final answer is {body.get('seed')}."
        number = sum(map(ord, question))
        match model:
            case "nonsense" if number % 3 == 0:
                return HTMLResponse("<html>the proxy is restarting</html>")
            case "nonsense" if number % 3 == 1:
                text = "  \n"
            case "stumbles" if attempt == 1:
                return JSONResponse({"error": {"message": "busy"}}, status_code=503)
            case "hangs" if attempt == 1 and number % 5 == 0:
                await asyncio.sleep(5)
            case "dead":
                return JSONResponse({"error": {"message": "out of memory"}}, status_code=500)
            case "missing":
                return JSONResponse({"error": {"message": "The model `missing` does not exist."}}, status_code=404)
            case "small":
                said = {"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}
                return JSONResponse(said, status_code=400)
            case "quota":
                return {"error": {"message": "quota exceeded", "code": 402}}
            case "proxy":
                return HTMLResponse(f"<html>{'x' * 5000}</html>", status_code=502)
            case "broke":
                return JSONResponse({"error": {"message": "insufficient credits"}}, status_code=402)
            case "annotator":
                text = self.annotate(question)
        ended = "content_filter" if model == "filtered" else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}

    def annotate(self, prompt: str) -> str:
        for word, reply in ANNOTATIONS.items():
            if word in prompt:
                return reply if isinstance(reply, str) else json.dumps(reply)
        raise AssertionError(prompt)


ANNOTATIONS: dict[str, Any] = {
    "lemon": {"verdict": "wrong", "before": "a lemon is", "mistake": "blue"},
    "grass": {"verdict": "right", "before": "", "mistake": ""},
    "snow": {"verdict": "wrong", "before": "snow is", "mistake": "quite black"},
    "coal": "It is all fine!",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.server.run)
    thread.start()
    while not server.server.started:
        time.sleep(0.01)
    yield server
    server.server.should_exit = True
    thread.join()


@pytest.fixture
def server(running: Server) -> Server:
    running.asked.clear()
    running.bodies.clear()
    running.most_under_way = 0
    return running


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    chats = [[Message(role="user", content=f"What is {number} + 1?")] for number in range(TOTAL // 2)]
    made = [
        Question(id=f"q/{n}", messages=chat, split=Split.train, reference=str(n + 1), check=Check.number)
        for n, chat in enumerate(chats)
    ]
    records.write(path, made)
    return path


def command(server: Server, questions: Path, model: str, *more: str) -> list[str]:
    options = ["--endpoint", server.url, "--model", model, "--samples", "2", "--concurrency", "4", "--timeout", "2"]
    return ["court", "answers", str(questions), "-o", str(questions.with_name("court.jsonl")), *options, *more]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(vllm_judge_app, list(arguments))
    return result.exit_code, result.output


def test_every_question_is_answered_as_often_as_asked(server, questions):
    code, output = run(*command(server, questions, "good", "--temperature", "0", "--temperature", "0.8"))
    assert code == 0
    assert "90 answers added" in output
    answers = read_court(questions.with_name("court.jsonl"))
    assert Counter(answer.metadata["temperature"] for answer in answers) == {0: 30, 0.8: 60}
    assert len({answer.answer for answer in answers}) == 90
    assert {body["max_tokens"] for body in server.bodies} == {1024}
    assert 2 <= server.most_under_way <= 4
    first = next(answer for answer in answers if answer.id == "q/3#good#t0#0")
    assert first.metadata["reference"] == "4"
    assert first.messages[0].content == "What is 3 + 1?"
    assert run(*command(server, questions, "good", "--temperature", "0.8"))[1].endswith("60 were there.\n")
    assert len(server.bodies) == 90


def test_a_killed_run_goes_on_without_losing_or_repeating_a_line(server, questions):
    output = questions.with_name("court.jsonl")
    arguments = command(server, questions, "good")
    process = subprocess.Popen([Path(sys.executable).with_name("vllm-judge"), *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (output.exists() and output.read_bytes().count(b"\n") >= 10):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = output.read_bytes()
    assert kept.count(b"\n") < TOTAL
    # The kernel writes a line whole, so a kill seldom cuts one; a power cut does.
    os.truncate(output, len(kept) - 7)
    whole = kept[: kept.rfind(b"\n", 0, len(kept) - 7) + 1]
    code, said = run(*arguments)
    assert code == 0
    there = whole.count(b"\n")
    assert f"{TOTAL - there} answers added" in said and f"{there} were there" in said
    assert output.read_bytes().startswith(whole)
    answers = read_court(output)
    assert len(answers) == TOTAL
    assert sum(server.asked.values()) <= TOTAL + 4 + 1  # what was under way at the kill, and the cut line


@pytest.mark.parametrize("model", ["stumbles", "hangs"])
def test_an_endpoint_that_recovers_costs_no_answer(server, questions, model):
    code, output = run(*command(server, questions, model, "--retries", "2"))
    assert code == 0
    assert f"{TOTAL} answers added" in output
    assert max(server.asked.values()) == 2


def test_nonsense_is_counted_and_costs_only_its_own_answer(server, questions):
    code, output = run(*command(server, questions, "nonsense"))
    assert code == 1
    assert "20 answers added" in output
    assert "20 requests failed: the endpoint answers nothing." in output
    assert "20 requests failed: the endpoint answers something that is no chat completion." in output
    assert "run the same command again" in output
    assert len(read_court(questions.with_name("court.jsonl"))) == 20


def test_silence_is_counted(server, questions):
    code, output = run(*command(server, questions, "hangs", "--retries", "0"))
    assert code == 1
    assert "12 requests failed: the endpoint timed out." in output
    assert len(read_court(questions.with_name("court.jsonl"))) == TOTAL - 12


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("dead", "the endpoint failed 20 times in a row: it answers HTTP 500: "),
        ("missing", "refuses requests to the model missing: "),
    ],
)
def test_an_endpoint_of_no_use_ends_the_run_at_once(server, questions, model, sentence):
    assert run(*command(server, questions, "good", "--samples", "1"))[0] == 0
    code, output = run(*command(server, questions, model, "--retries", "0"))
    assert code == 1
    assert sentence in output
    assert sum(key.startswith(model) for key in server.asked) < 30
    assert len(read_court(questions.with_name("court.jsonl"))) == 30


def test_nobody_at_the_address_is_one_sentence(questions):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        arguments = ["court", "answers", str(questions), "-o", str(questions.with_name("c.jsonl")), "--model", "m"]
        code, output = run(*arguments, "--endpoint", address, "--retries", "0")
    assert code == 1
    assert "vllm-judge: the endpoint failed 20 times in a row: it cannot be reached." in output


def answer(id: str, text: str, **label: Any) -> Answer:
    chat = [Message(role="user", content="Say something.")]
    return Answer.model_validate({"id": id, "messages": chat, "answer": text, "model": "someone", **label})


def test_an_annotator_labels_what_it_can_quote_and_the_rest_stays_as_it_was(server, tmp_path):
    path, out = tmp_path / "court.jsonl", tmp_path / "labelled.jsonl"
    wrong = {"verdict": "wrong", "labelled_by": "final-answer:exact"}
    mistake = Span(start=0, end=1)
    given = [
        answer("1", "The sky is blue, a lemon is blue.", **wrong),
        answer("2", "The grass is green."),
        answer("3", "Well, snow is black.", **wrong),
        answer("4", "Hot coal is red."),
        answer("5", "Grass", verdict="wrong", labelled_by="a person", mistake=mistake),
        answer("6", "So the grass is green.", **wrong),
    ]
    records.write(path, given)
    arguments = ["label", "llm", str(path), "-o", str(out), "--endpoint", server.url, "--model", "annotator"]
    code, output = run(*arguments)
    assert code == 0
    assert output.splitlines()[-4].startswith("2 answers labelled by annotator")
    assert output.splitlines()[-4].endswith("3 replies refused.")
    for reason in (
        "quotes words that are not in the answer",
        "does not follow the schema",
        "calls a wrong answer right",
    ):
        assert f"1: the reply {reason}" in output
    labelled = {a.id: a for a in read_court(out)}
    assert (labelled["1"].mistake, labelled["1"].labelled_by) == (Span(start=28, end=32), "llm:annotator")
    assert (labelled["2"].verdict, labelled["2"].labelled_by) == (Verdict.right, "llm:annotator")
    for id in ("3", "4", "6"):
        before = given[int(id) - 1]
        assert (labelled[id].verdict, labelled[id].labelled_by) == (before.verdict, before.labelled_by)
        assert "llm:annotator" in labelled[id].metadata["refused"]
    assert labelled["5"] == given[4]
    asked = len(server.bodies)
    assert asked == 5
    assert server.bodies[0]["response_format"]["json_schema"]["strict"] is True
    assert run(*arguments)[0] == 0
    assert len(server.bodies) == asked + 3  # those that were refused, and no other
    assert {one.id: one for one in read_court(out)} == labelled
    code, output = run(*arguments[:-1], "another")
    assert code == 1 and "choose another file with -o for llm:another" in output


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ('```json\n{"verdict": "right", "before": "", "mistake": ""}\n```', Verdict.right),
        ('```\n{"verdict": "right", "before": "", "mistake": ""}```', Verdict.right),
        ('<think>{"verdict": "wrong"}</think>\n{"verdict": "right", "before": "", "mistake": ""}', Verdict.right),
    ],
)
def test_what_models_write_around_json_is_passed_over(reply, label):
    assert apply(answer("1", "All is well."), reply, "llm:x").verdict == label


def test_an_annotator_of_no_use_ends_with_an_error(server, tmp_path):
    path, out = tmp_path / "court.jsonl", tmp_path / "labelled.jsonl"
    records.write(path, [answer("1", "Hot coal is red.")])
    arguments = ["label", "llm", str(path), "-o", str(out), "--endpoint", server.url, "--model", "annotator"]
    code, output = run(*arguments)
    assert code == 1
    assert output.splitlines()[-1].startswith("vllm-judge: annotator gave no reply that could be used")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"message": {"content": None, "reasoning_content": "hm"}}, "gives nothing but its reasoning"),
        (
            {"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"},
            "comes to the token limit within its reasoning",
        ),
        ({"message": {"content": None, "refusal": "No."}}, "refuses to answer"),
        ({"message": {"content": None, "tool_calls": [{"id": "1"}]}}, "calls a tool instead of answering"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, "filters the whole answer out"),
        ({"message": {"content": None}}, "answers nothing"),
        ({"message": {"content": "Well."}, "finish_reason": 0}, None),
        ({"message": {"content": [{"type": "text", "text": "We"}, {"type": "text", "text": "ll."}]}}, None),
    ],
)
def test_a_reply_without_a_text_has_a_name(choice, reason):
    found = Choice.model_validate(choice)
    assert found.missing == reason
    assert reason or found.text == "Well."


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("small", "1 requests failed: the endpoint answers HTTP 400: maximum context length is 10 tokens."),
        ("quota", "1 requests failed: the endpoint answers an error: quota exceeded."),
        ("proxy", "1 requests failed: the endpoint answers HTTP 502."),
        ("broke", "refuses requests to the model broke: HTTP 402: insufficient credits"),
    ],
)
def test_the_servers_own_reason_is_shown(server, questions, model, sentence):
    records.write(questions, records.read(questions, Question)[:1])
    code, output = run(*command(server, questions, model, "--samples", "1", "--retries", "0"))
    assert code == 1
    assert sentence in output


def test_an_answer_that_a_filter_cut_is_kept_and_not_judged(server, questions):
    records.write(questions, records.read(questions, Question)[:1])
    assert run(*command(server, questions, "filtered", "--samples", "1"))[0] == 0
    [found] = read_court(questions.with_name("court.jsonl"))
    assert final_verdict(found) == Verdict.unknown


def test_a_key_that_cannot_be_one_is_one_sentence(questions, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\N{GREEK SMALL LETTER ALPHA}")
    out = str(questions.with_name("c.jsonl"))
    code, output = run("court", "answers", str(questions), "-o", out, "--model", "m", "--endpoint", "http://x/v1")
    assert (code, output) == (1, "vllm-judge: OPENAI_API_KEY holds a character that no key has: copy it anew.\n")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ({"verdict": "wrong", "before": "", "mistake": "5"}, "quotes words that do not tell one place from another"),
        ({"verdict": "wrong", "before": "makes ", "mistake": "5"}, (17, 18)),
        ({"verdict": "wrong", "before": "", "mistake": " "}, "quotes no mistake"),
        ({"verdict": "right", "before": "", "mistake": "5"}, "calls an answer right and quotes a mistake"),
        ({"verdict": "wrong", "before": "", "mistake": "5", "note": "!"}, "does not follow the schema"),
        ({"verdict": "perhaps", "before": "", "mistake": ""}, "does not follow the schema"),
    ],
)
def test_a_quotation_must_name_one_place(reply, found):
    asked = answer("1", "2, 5 and 5 makes 5 + 5")
    if isinstance(found, str):
        with pytest.raises(Refusal, match=found):
            apply(asked, json.dumps(reply), "llm:x")
    else:
        span = apply(asked, json.dumps(reply), "llm:x").mistake
        assert (span.start, span.end) == found
