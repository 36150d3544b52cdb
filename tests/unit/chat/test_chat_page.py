"""The page of `vllm-judge chat`: whose choice a token was, and what becomes of a server that is not to be trusted.

It would catch: a token coloured one place off, an own token where a step accepted nothing, colours that are made up
where the server does not tell, a reply that runs a script, one without an end, and an error that is no sentence. A real
served model: tests/engine/test_chat.py.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn
from chromium import HOSTILE, assert_nothing_was_taken_or_can_be, chromium

from vllm_judge.chat.app import LONGEST_LINE, Asked, _decoded, _lines, chat_app, served_model
from vllm_judge.chat.kinds import JUDGE_ONLY, OWN, STRICT, kinds_of
from vllm_judge.errors import JudgeError


def metrics(accepted: list[int], positions: list[int]) -> dict[str, Any]:
    detailed = {"per_step_accepted": accepted, "judge_only_positions": positions}
    return {"num_spec_steps": len(accepted), "num_judge_only_tokens": len(positions), **detailed}


def test_after_a_prefills_token_each_step_gives_what_it_accepted_and_one_of_the_targets_own():
    found = kinds_of(8, metrics([3, 0, 1], [2, 3]))
    assert found.by_token == [OWN, STRICT, JUDGE_ONLY, JUDGE_ONLY, OWN, OWN, STRICT, OWN]
    assert (found.judge_only, found.missing) == (2, "")


def test_the_last_step_may_have_given_more_than_was_wanted():
    found = kinds_of(3, {**metrics([5], [1]), "num_judge_only_tokens": 4})
    assert (found.by_token, found.judge_only) == ([OWN, JUDGE_ONLY, STRICT], 1)
    assert kinds_of(1, metrics([], [])).by_token == [OWN]
    assert kinds_of(0, metrics([], [])).by_token == []


def test_where_steps_went_without_drafts_only_the_judges_places_are_known():
    found = kinds_of(6, metrics([2], [1]))
    assert found.by_token == [None, JUDGE_ONLY, None, None, None, None]
    assert "without drafts" in found.missing


@pytest.mark.parametrize(
    ("said", "judge_only", "sentence"),
    [
        (None, None, "start the server with --per-request-spec-decode-metrics detailed"),
        ({"num_spec_steps": 1}, None, "does not count what only its judge accepted"),
        ({"num_spec_steps": 1, "num_judge_only_tokens": 2}, 2, "--per-request-spec-decode-metrics detailed"),
    ],
)
def test_what_a_server_does_not_tell_is_not_made_up(said, judge_only, sentence):
    found = kinds_of(3, said)
    assert found.by_token == [None] * 3 and found.judge_only == judge_only and sentence in found.missing


def test_a_character_comes_with_the_last_of_its_tokens():
    shown, rest = [], b""
    for byte in "é😀a".encode():
        piece, rest = _decoded(rest + bytes([byte]))
        shown.append(piece)
    assert shown == ["", "é", "", "", "", "😀", "a"] and rest == b""
    assert _decoded(b"\xff\xffab") == ("\ufffd\ufffdab", b"")


def chunk(*texts: str, **fields: Any) -> bytes:
    tokens = [{"token": text, "bytes": list(text.encode()), "logprob": 0.0} for text in texts]
    choices = [{"delta": {"content": "".join(texts)}, "logprobs": {"content": tokens}}] if texts else []
    return f"data: {json.dumps({'choices': choices, **fields})}\n\n".encode()


class Stranger:
    """A server that says what it is told to, whatever it is asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.asked: list[dict[str, Any]] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(json.dumps({"data": [{"id": "served"}]}).encode())

            def do_POST(self) -> None:
                stranger.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.reply(stranger.body)

            def reply(self, body: bytes) -> None:
                self.send_response(stranger.status)
                self.end_headers()
                with contextlib.suppress(OSError):  # the other side has heard enough
                    self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    yield made
    made.http.shutdown()
    made.http.server_close()


def ask(stranger: Stranger, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        asked = Asked(**{"question": "why?", "judged": True, **fields})
        return [json.loads(line) async for line in _lines(stranger.url, "served", asked)]

    return asyncio.run(collect())


def test_the_strict_way_and_the_dial_are_what_is_asked_for(stranger):
    stranger.body = chunk("a") + b"data: [DONE]\n\n"
    for fields, xargs in (
        ({"judged": False, "threshold": 0.3}, {"judge": "false"}),
        ({"judged": True, "threshold": 0.3}, {"judge_threshold": 0.3}),
        ({"judged": True, "scope": "thinking", "mode": "shadow"}, {"judge_scope": "thinking", "judge_mode": "shadow"}),
        ({"judged": True}, {}),
    ):
        assert ask(stranger, **fields)[-1]["done"]["tokens"] == 1
        assert stranger.asked[-1]["vllm_xargs"] == xargs


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (400, json.dumps({"error": {"message": "no chat template"}}).encode(), "the server says: "),
        (500, b"x" * 10**6, "the server says: x"),
        (200, b"data: {nothing\n", "did not answer: "),
        (200, b"data: " + b"[" * 10**5 + b"\n", "did not answer: "),
        (200, b"data: 7\n", "did not answer: "),
        (200, b'data: {"choices": 7}\n', "did not answer: "),
        (200, b'data: {"choices": [{"logprobs": {"content": [{"bytes": [300]}]}}]}\n', "did not answer: "),
        (200, b"data: " + b"x" * (LONGEST_LINE + 10**6), "did not answer: an event is longer than"),
        (200, b'data: {"error": {"message": "out of memory"}}\n', "out of memory"),
    ],
    ids=["refusal", "long refusal", "no json", "deep", "number", "wrong type", "no bytes", "endless", "error"],
)
def test_a_server_that_says_anything_else_gives_one_short_sentence(stranger, status, body, sentence):
    stranger.status, stranger.body = status, body
    [event] = ask(stranger)
    assert sentence in event["error"] and len(event["error"]) < 500


def test_no_server_is_one_sentence():
    with pytest.raises(JudgeError, match="is no running `vllm serve`"):
        served_model("http://127.0.0.1:9")


@pytest.fixture
def page_at(stranger) -> Iterator[Callable[[], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(chat_app(stranger.url, "served"), port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_an_answer_is_shown_as_text_with_its_colours_and_runs_nothing(stranger, page_at):
    done = {"metrics": {"speculative_decoding": metrics([2, 0], [1])}}
    stranger.body = chunk("It ") + chunk("is ", HOSTILE, "!") + chunk("\n") + chunk(**done) + b"data: [DONE]\n\n"
    with chromium() as browser:
        page = browser.new_page()
        page.goto(page_at)
        page.fill("#question", HOSTILE)
        page.keyboard.press("Enter")
        page.locator("#judged .figures b").nth(3).wait_for(timeout=20_000)
        assert page.locator("#judged .text").text_content() == f"It is {HOSTILE}!\n"
        kinds = page.eval_on_selector_all("#judged .text i", "tokens => tokens.map(token => token.className)")
        assert kinds == [OWN, JUDGE_ONLY, STRICT, OWN, OWN]
        assert page.locator("#judged .figures").text_content().startswith("5tokens")
        assert "20 %by the judge only" in page.locator("#judged .figures").text_content()
        assert "strict's speed" in page.locator("#judged .figures").text_content()
        assert_nothing_was_taken_or_can_be(page)


def test_no_other_page_can_ask(stranger, page_at):
    stranger.body = chunk("a")
    own = {"Origin": page_at, "Content-Type": "application/json"}
    body = json.dumps({"question": "why?", "judged": True})
    for headers, status in (
        ({}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Host": "evil.example"}, 400),
    ):
        assert httpx.post(f"{page_at}/api/answer", content=body, headers=own | headers).status_code == status
    assert httpx.post(f"{page_at}/api/answer", content='{"question": ""}', headers=own).status_code == 422
