"""The annotation page in real Chromium, clicked and typed on as a person would; and the files that it leaves.

It would catch: a key or click that does nothing or the wrong thing, a click that is not on disk when the page says
so, a span that is off after an emoji, an undo that forgets, a page that any other web page could write to.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from sklearn.metrics import cohen_kappa_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.annotate.agreement import agreements
from vllm_judge.tokencourt.annotate.pieces import pieces_in, pieces_of, span_of
from vllm_judge.tokencourt.annotate.store import Notebook, Opinion, read_opinions
from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict, read_court

PAGE_SECONDS = 60
TEXTS = ["A dozen 😀 is 12, so two are 25 in all.", "Two and two is four.", "Ice is hot.\n\nSo it burns."]


@pytest.fixture
def court(tmp_path: Path) -> Path:
    path = tmp_path / "court.jsonl"
    chat = [Message(role="user", content="How many?")]
    reference = {"reference": "24"}
    made = [Answer(id=f"a/{n}", messages=chat, answer=t, model="m", metadata=reference) for n, t in enumerate(TEXTS)]
    records.write(path, made)
    return path


class Server:
    """`vllm-judge label annotate` in a process of its own."""

    def __init__(self, court: Path, *annotators: str, options: tuple[str, ...] = ()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        names = [option for name in annotators for option in ("--annotator", name)]
        command = [Path(sys.executable).with_name("vllm-judge"), "label", "annotate", court, "--port", str(self.port)]
        self.process = subprocess.Popen([*command, *names, *options], stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5)
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serve(court: Path) -> Iterator[object]:
    started = []

    def start(*annotators: str, options: tuple[str, ...] = ()) -> Server:
        started.append(Server(court, *annotators, options=options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium.chromium() as browser:
        yield browser


def opened(browser, server: Server, annotator: str):
    page = browser.new_page()
    page.set_default_timeout(PAGE_SECONDS * 1000)
    page.goto(f"{server.url}/?annotator={annotator}")
    page.wait_for_selector("#answer b")
    return page


def said(page, text: str) -> None:
    chromium.shows(page.locator("#said"), text)


def shows(page, text: str) -> None:
    chromium.shows(page.locator("#answer"), text)


def test_clicks_and_keys_leave_labels_on_disk_and_survive_a_kill(court, serve, browser):
    server = serve("alice")
    page = opened(browser, server, "alice")
    assert page.locator("#question").text_content() == "How many?"
    page.locator("#answer b", has_text="25").click()
    said(page, "Saved: answer 1 wrong")
    assert read_opinions(court)["alice"]["a/0"].mistake == Span(
        start=TEXTS[0].index("25"), end=TEXTS[0].index("25") + 2
    )
    assert page.locator("#answer b.wrong").text_content() == "25"
    page.keyboard.press("n")
    shows(page, TEXTS[1])
    page.keyboard.press("r")
    shows(page, TEXTS[2])
    page.keyboard.press("s")
    said(page, "Saved: answer 3 skipped")
    assert page.locator("#count").text_content() == "3 of 3 judged"
    page.keyboard.press("p")
    shows(page, TEXTS[1])
    page.keyboard.press("u")
    said(page, "Undone: answer 3")
    page.keyboard.press("u")
    said(page, "Undone: answer 2")
    assert page.locator("#count").text_content() == "1 of 3 judged"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("w")
    said(page, "Saved: answer 2 wrong")
    assert page.locator("#answer b.wrong").text_content() == "and"
    server.kill()
    page.keyboard.press("r")
    page.wait_for_selector("#said.failed")

    reopened = opened(browser, serve("alice"), "alice")
    shows(reopened, TEXTS[2])  # the first without an opinion
    assert reopened.locator("#count").text_content() == "2 of 3 judged"
    reopened.keyboard.press("u")
    said(reopened, "Undone: answer 2")
    assert set(read_opinions(court)["alice"]) == {"a/0"}


def test_a_mark_can_be_longer_and_stops_at_white_space(court, serve, browser):
    page = opened(browser, serve("alice"), "alice")
    page.locator("#map i").nth(2).click()
    shows(page, TEXTS[2])
    page.locator("#answer b", has_text="hot").click()
    page.locator("#answer b", has_text="So").click(modifiers=["Shift"])
    said(page, "Saved: answer 3 wrong")
    page.locator("#answer b.wrong").nth(1).wait_for()
    mistake = read_opinions(court)["alice"]["a/2"].mistake
    assert TEXTS[2][mistake.start : mistake.end] == "hot.\n\nSo"


def test_two_people_see_how_far_they_agree_and_their_labels_are_collected(court, serve, browser):
    server = serve("alice", "bob")
    alice, bob = opened(browser, server, "alice"), opened(browser, server, "bob")
    for page, last in ((alice, "w"), (bob, "r")):
        page.locator("#answer b", has_text="25").click()
        said(page, "Saved: answer 1 wrong")
        page.keyboard.press("n")
        shows(page, TEXTS[1])
        page.keyboard.press("r")
        shows(page, TEXTS[2])
        page.keyboard.press(last)
        said(page, f"Saved: answer 3 {'wrong' if last == 'w' else 'right'}")
    kappa = cohen_kappa_score(["wrong", "right", "wrong"], ["wrong", "right", "right"])
    assert bob.locator("#agreement").text_content() == f"κ {kappa:.2f}alice and bob, 3 shared; same place in 100 %"
    out = court.with_name("collected.jsonl")
    result = CliRunner().invoke(app, ["label", "collect", str(court), "-o", str(out)])
    assert "2 answers labelled by alice, bob, 1 left as they were" in result.output
    assert f"Cohen's kappa {kappa:.2f} on 3 answers" in result.output
    first, second, third = read_court(out)
    assert (first.verdict, first.labelled_by) == (Verdict.wrong, "alice and bob")
    assert first.answer[first.mistake.start : first.mistake.end] == "25"
    assert second.verdict == Verdict.right
    assert third.verdict == Verdict.unknown
    assert set(third.metadata["opinions"]) == {"alice", "bob"}


def test_what_a_court_file_holds_is_shown_as_text_and_runs_nothing(court, serve, browser):
    asked = [Message(role="user", content=chromium.HOSTILE)]
    reference = {"reference": chromium.HOSTILE}
    records.write(
        court,
        [
            Answer(
                id=chromium.HOSTILE, messages=asked, answer=chromium.HOSTILE, model=chromium.HOSTILE, metadata=reference
            )
        ],
    )
    page = opened(browser, serve("alice"), "alice")
    assert page.locator("#question").text_content() == page.locator("#answer").text_content() == chromium.HOSTILE
    assert chromium.HOSTILE in page.locator("#meta").text_content()
    chromium.assert_nothing_was_taken_or_can_be(page)


def test_no_other_page_can_reach_the_server(serve):
    server = serve("alice")
    for host, status in (
        (f"127.0.0.1:{server.port}", 200),
        (f"[::1]:{server.port}", 200),
        (f"LOCALHOST:{server.port}", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ):
        request = urllib.request.Request(f"{server.url}/api/overview?annotator=alice", headers={"Host": host})
        try:
            assert urllib.request.urlopen(request, timeout=30).status == status
        except urllib.error.HTTPError as error:
            assert error.code == status
    change = f"{server.url}/api/undo?annotator=alice"
    own, json_type = server.url, "application/json"
    for origin, kind, body, status in (
        (own, json_type, b"{}", 200),
        ("https://evil.example", json_type, b"{}", 403),
        ("null", json_type, b"{}", 403),
        (None, json_type, b"{}", 403),
        (f"http://localhost:{server.port}", json_type, b"{}", 403),
        (own, "text/plain", b"{}", 415),
        (own, "application/x-www-form-urlencoded", b"{}", 415),
        (own, json_type, b"", 422),
        (own, json_type, b'{"id": 1}', 422),
    ):
        headers = {"Content-Type": kind} | ({"Origin": origin} if origin else {})
        request = urllib.request.Request(change, body, headers)
        try:
            assert urllib.request.urlopen(request, timeout=30).status == status
        except urllib.error.HTTPError as error:
            assert error.code == status, (origin, kind, body)
    listening = [connection for connection in _listeners(server.process.pid) if connection[1] == server.port]
    assert listening == [("127.0.0.1", server.port)]


def _listeners(pid: int) -> list[tuple[str, int]]:
    """Addresses that a process of this network namespace listens on, IPv4 and IPv6."""
    assert os.path.exists(f"/proc/{pid}")
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, port = local.split(":")
                found.append((".".join(str(byte) for byte in reversed(bytes.fromhex(address))), int(port, 16)))
    return found


@pytest.mark.parametrize("annotator", ["../alice", "", ".hidden", "a/b"])
def test_a_name_that_makes_no_file_is_refused(court, annotator):
    result = CliRunner().invoke(app, ["label", "annotate", str(court), "--annotator", annotator])
    assert result.exit_code == 1
    assert "an annotator's name is of letters" in result.output


def test_undo_goes_back_through_everything(court):
    right, wrong = Opinion(verdict="right"), Opinion(verdict="wrong", mistake=Span(start=0, end=1))
    notebook = Notebook(court, "alice")
    for id, opinion in (("1", right), ("2", right), ("1", wrong)):
        notebook.say(id, opinion)
    notebook.close()
    notebook = Notebook(court, "alice")
    states = []
    while (id := notebook.undo()) is not None:
        states.append((id, dict(notebook.now)))
    assert states == [("1", {"1": right, "2": right}), ("2", {"1": right}), ("1", {})]
    notebook.say("2", wrong)
    assert notebook.undo() == "2"
    assert notebook.undo() is None
    notebook.close()


def test_agreement_leaves_out_what_only_one_judged():
    def marks(*starts: int | None) -> dict[str, Opinion]:
        spans = [None if start is None else Span(start=start, end=start + 2) for start in starts]
        return {str(n): Opinion(verdict="wrong" if span else "right", mistake=span) for n, span in enumerate(spans)}

    (pair,) = agreements({"a": marks(0, 5, None, None), "b": marks(1, 9, None)})
    assert (pair.both, pair.kappa, pair.same_place) == (3, 1.0, 0.5)
    (pair,) = agreements({"a": marks(None), "b": marks(None)})
    assert (pair.both, pair.kappa, pair.same_place) == (1, None, None)


def a_token_for_every_byte() -> PreTrainedTokenizerFast:
    alphabet = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("tokenizer", [None, a_token_for_every_byte()], ids=["words", "bytes"])
def test_pieces_follow_each_other_and_give_spans_back(tokenizer):
    for text in [*TEXTS, "  leading and trailing  ", "one", " ", ""]:
        pieces = pieces_of(text, tokenizer)
        assert "".join(text[piece.start : piece.end] for piece in pieces) == text
        assert all(text[piece.start : piece.end].strip() for piece in pieces) or not text.strip()
        for first in range(len(pieces)):
            for last in range(first, len(pieces)):
                assert pieces_in(pieces, span_of(text, pieces, first, last)) == (first, last)
