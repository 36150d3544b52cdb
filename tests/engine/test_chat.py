"""The page of `vllm-judge chat` in real Chromium, on the embedded pair in a real `vllm serve`.

It would catch: a page that asks for what vLLM does not take, tokens that are not the answer's, colours that are not
what the server says of the request, a speed of nothing, and a refusal of the server that is not shown.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chromium import chromium, shows
from server import serving

from vllm_judge.chat.kinds import kinds_of
from vllm_judge.demo import trio

QUESTION = "Zoe has 5 shells. Ana has 9 times as many as Zoe. How many shells do Zoe and Ana have in total?"
MAX_TOKENS = 120
DETAILED = ("--per-request-spec-decode-metrics", "detailed")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("served") / "log"
    with serving(trio.TARGET.parent, str(trio.JUDGE_JSON), log, *DETAILED) as client:
        yield client


@pytest.fixture(scope="module")
def page(served: httpx.Client) -> Iterator[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("vllm-judge")), "chat", "--url", str(served.base_url)]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        with chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            yield page
    finally:
        process.kill()
        process.wait()


def answered(served: httpx.Client, **xargs: Any) -> dict[str, Any]:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "logprobs": True,
        "vllm_xargs": xargs,
    }
    return served.post("/v1/chat/completions", json=body).json()


def test_both_answers_are_the_servers_and_so_are_their_colours(served, page):
    shows(page.locator("#server"), f"tiny at {str(served.base_url).rstrip('/')}")
    page.fill("#question", QUESTION)
    page.fill("#max_tokens", str(MAX_TOKENS))
    page.click("#ask")
    page.locator("#judged .figures", has_text="strict's speed").wait_for()
    texts = {}
    for way, xargs in (("strict", {"judge": "false"}), ("judged", {})):
        reply = answered(served, **xargs)
        [choice] = reply["choices"]
        tokens = choice["logprobs"]["content"]
        texts[way] = page.locator(f"#{way} .text").text_content()
        assert texts[way].startswith(choice["message"]["content"])
        said = reply["metrics"]["speculative_decoding"]
        want = kinds_of(len(tokens), said)
        found = page.eval_on_selector_all(f"#{way} .text i", "tokens => tokens.map(token => token.className)")
        assert found == [kind or "" for kind in want.by_token]
        shows(page.locator(f"#{way} .note"), want.missing)
        assert page.locator(f"#{way} .figures b").first.text_content() == str(len(tokens))
        assert float(page.locator(f"#{way} .figures b").nth(1).text_content()) > 0
        assert set(found) == ({"strict", "own"} if way == "strict" else {"strict", "own", "judge-only"})
        assert said["num_judge_only_tokens"] >= len(said["judge_only_positions"]) == found.count("judge-only")
    assert texts["strict"] != texts["judged"]


def test_the_dial_reaches_the_server_and_a_refusal_the_page(served, page):
    page.check("#own")
    page.locator("#threshold").fill("1")
    shows(page.locator("#dial"), "1.00")
    page.click("#ask")
    page.locator("#judged .figures", has_text="strict's speed").wait_for()
    assert page.locator("#judged .text").text_content() == page.locator("#strict .text").text_content()
    page.fill("#question", "word " * 400)
    page.click("#ask")
    page.locator("#judged .note.failed").wait_for()
    assert "the server says: " in page.locator("#judged .note").text_content()
    assert page.locator("#strict .text").text_content() == ""
