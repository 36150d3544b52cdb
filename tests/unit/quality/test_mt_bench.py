"""Pairwise judging over real HTTP: a judge model that prefers by what it reads, by the order, or babbles.

It would catch: a preference that is counted for the wrong side or though the other order contradicts it, a reply that
is taken though it breaks the schema, comparisons asked twice or lost over a kill, a second turn asked without the first
answer, an interval that takes two turns of one conversation for two questions, answers kept from another setting.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer
from lm_eval.api.instance import Instance
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.errors import JudgeError
from vllm_judge.quality import engines as quality_engines
from vllm_judge.quality.counters import Counters
from vllm_judge.quality.engines import Engine
from vllm_judge.quality.mt_bench.answers import answers_of, read_questions
from vllm_judge.quality.tasks import arms

# What the judged engine answers to each first message, and to its follow-up; strict answers are "plain".
JUDGED = {"ode": ("better", "better"), "sum": ("worse", "plain"), "tie": ("plain", "plain"), "odd": ("plain", "better")}
COUNTED = Counters(tokens=50, cycles=5, accepted=40, judge_only=0, token_seconds=1, requests=10)
MAX_TOKENS = 64


class PretendedEngine(Engine):
    """Answers conversations as JUDGED says; keeps what it was asked."""

    name = "pretended"

    def __init__(self, strict_judge_only: int = 0):
        super().__init__()
        self.total = Counters.none()
        self.strict_judge_only = strict_judge_only
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def answer(self, asked: list[Instance]) -> list[str]:
        judged = asked[0].args[1]["dial"]["judge"] == "true"
        self.asked += [request.args for request in asked]
        self.total = self.total + COUNTED + Counters(0, 0, 0, 20 if judged else self.strict_judge_only, 0, 0)
        chats = [json.loads(request.args[0]) for request in asked]
        turns = [JUDGED[chat[0]["content"]][len(chat) // 2] if judged else "plain" for chat in chats]
        return [f"A {word} answer to {chat[-1]['content']}." for chat, word in zip(chats, turns, strict=True)]

    def counters(self) -> Counters:
        return self.total

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return json.dumps(chat_history)

    def arguments(self, dial: dict[str, object], salt: str) -> dict[str, object]:
        return {"dial": dial, "salt": salt}


@pytest.fixture(scope="module")
def running() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture
def server(running: JudgeServer) -> JudgeServer:
    running.prompts.clear()
    return running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(quality_engines, "SETTLE_SECONDS", 0)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """In the published form: numbers for ids, keys that nobody needs."""
    path = tmp_path / "question.jsonl"
    lines: list[dict[str, Any]] = [
        {
            "question_id": 81 + number,
            "category": "math" if word == "sum" else "writing",
            "turns": [word, f"more {word}"],
        }
        for number, word in enumerate(JUDGED)
    ]
    lines[1] |= {"reference": ["It is 4.", None], "prompt": "unused"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def answered(questions: Path) -> Path:
    """An output folder with all answers: the command starts no engine for it."""
    path = questions.parent / "out" / "mt_bench_answers.jsonl"
    answers_of(path, read_questions(questions), arms([]), MAX_TOKENS, PretendedEngine)
    return path.parent


def evaluate(server: JudgeServer, questions: Path, model: str) -> tuple[int, str]:
    command = ["evaluate", "--mt-bench", str(questions), "-o", str(questions.parent / "out"), "--url", "http://none"]
    command += ["--judge-endpoint", server.url, "--judge-model", model]
    result = CliRunner().invoke(app, [*command, "--max-tokens", str(MAX_TOKENS)])
    return result.exit_code, result.output


def compared(folder: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((folder / "mt_bench.json").read_text())
    return {one["category"]: one for one in report["comparisons"]}


def counts(one: dict[str, Any]) -> tuple[int, ...]:
    return tuple(one[name] for name in ("n", "wins", "ties", "losses", "identical", "refused"))


def test_both_turns_are_asked_of_one_engine_under_every_dial(questions, tmp_path):
    engine = PretendedEngine()
    strict, judged = answers_of(tmp_path / "a.jsonl", read_questions(questions), arms([]), MAX_TOKENS, lambda: engine)
    assert judged.answers["81"] == ["A better answer to ode.", "A better answer to more ode."]
    last = json.loads(engine.asked[-1][0])
    assert [message["content"] for message in last] == ["odd", "A plain answer to odd.", "more odd"]
    assert strict.counted == COUNTED + COUNTED, "of both turns, without the warm-up's"
    assert len({arguments["salt"] for _, arguments in engine.asked}) == 4, "two warm-ups and two runs"
    assert all(arguments["max_gen_toks"] == MAX_TOKENS for _, arguments in engine.asked)


def test_only_what_is_preferred_in_both_orders_wins(server, questions, answered):
    code, output = evaluate(server, questions, "fair")
    assert code == 0, output
    found = compared(answered)
    assert counts(found["all"]) == (8, 3, 4, 1, 3, 0)
    assert found["all"]["win_rate"]["value"] == pytest.approx((3 + 4 / 2) / 8)
    assert found["all"]["win_rate"]["low"] < 0.625 < found["all"]["win_rate"]["high"]
    assert found["all"]["agreement"] == 1.0
    assert counts(found["math"]) == (2, 0, 1, 1, 0, 0)
    assert len(server.prompts) == 2 * (8 - 3), "identical conversations are not shown"

    code, output = evaluate(server, questions, "first")
    assert code == 0, output
    assert counts(compared(answered)["all"]) == (8, 0, 8, 0, 3, 0)
    assert compared(answered)["all"]["agreement"] == 0.0


def test_a_judge_model_reads_the_conversation_and_the_reference(server, questions, answered):
    evaluate(server, questions, "fair")
    first = [prompt for prompt in server.prompts if "more sum" not in prompt and "sum" in prompt]
    second = [prompt for prompt in server.prompts if "more sum" in prompt]
    assert len(first) == len(second) == 2
    assert all("# Reference answer 1\n\nIt is 4." in prompt for prompt in first + second)
    assert all("Reference answer 2" not in prompt for prompt in second)
    assert {prompt.index("worse") < prompt.index("plain") for prompt in first} == {True, False}, "both orders"
    assert not any("strict" in prompt or "judged" in prompt for prompt in server.prompts)


def test_a_reply_that_breaks_the_schema_leaves_its_pair_out(server, questions, answered):
    code, output = evaluate(server, questions, "babbler")
    assert code == 0, output
    assert counts(compared(answered)["all"]) == (6, 1, 4, 1, 3, 2)
    code, output = evaluate(server, questions, "drunk")
    assert code == 1
    assert output.splitlines()[-1].startswith("vllm-judge: no pair has a usable reply in both orders: ")


def test_a_run_goes_on_where_it_stopped(server, questions, answered):
    evaluate(server, questions, "fair")
    whole = (answered / "mt_bench.json").read_text()
    verdicts = answered / "mt_bench_verdicts.jsonl"
    lines = verdicts.read_bytes().splitlines(keepends=True)
    verdicts.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    server.prompts.clear()
    code, output = evaluate(server, questions, "fair")
    assert code == 0, output
    assert len(server.prompts) == len(lines) - 4
    assert (answered / "mt_bench.json").read_text() == whole


def test_an_endpoint_of_no_use_ends_the_run_without_figures(server, questions, answered):
    code, output = evaluate(server, questions, "missing")
    assert code == 1
    assert output.splitlines()[-1].startswith(f"vllm-judge: {server.url} refuses requests to the model missing: ")
    assert not (answered / "mt_bench.json").exists()


def test_answers_to_other_settings_are_refused(questions, answered):
    with pytest.raises(JudgeError, match="other questions, thresholds or --max-tokens"):
        answers_of(
            answered / "mt_bench_answers.jsonl", read_questions(questions), arms([0.9]), MAX_TOKENS, PretendedEngine
        )


def test_a_strict_run_that_was_judged_is_refused(questions, tmp_path):
    path = tmp_path / "answers.jsonl"
    with pytest.raises(JudgeError, match="judge-only tokens while"):
        answers_of(path, read_questions(questions), arms([]), MAX_TOKENS, lambda: PretendedEngine(strict_judge_only=2))
    assert not path.exists()


def test_a_line_that_is_no_question_is_one_sentence(server, questions):
    questions.write_text(questions.read_text() + '{"question_id": 99, "category": "math", "turns": ["one"]}\n')
    code, output = evaluate(server, questions, "fair")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith(f"vllm-judge: {questions}, line 5: turns: ")


def test_the_report_shows_it(server, questions, answered):
    evaluate(server, questions, "fair")
    done = CliRunner().invoke(app, ["report", str(answered)])
    assert done.exit_code == 0, done.output
    page = (answered / "report.html").read_text()
    for expected in ("Pairwise judging on question.jsonl", "0.625", "writing", "fair", "win rate"):
        assert expected in page
