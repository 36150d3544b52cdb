"""Takes docs/chat.png: the page of `vllm-judge chat` on the embedded pair, a question answered, in real Chromium.

python scripts/chat_picture.py
"""

import argparse
import sys
import threading
import time
from pathlib import Path

import uvicorn
from vllm_server import MODEL, Server

from vllm_judge.chat.app import chat_app
from vllm_judge.demo import trio

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
QUESTION = "Zoe has 5 shells. Ana has 9 times as many as Zoe. How many shells do Zoe and Ana have in total?"
WARM_UP = 2  # questions before the one that is shown
WIDTH, HEIGHT = 1180, 660


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/chat.png")
    options = parser.parse_args()
    from chromium import chromium

    with Server(str(trio.JUDGE_JSON), options=["--per-request-spec-decode-metrics", "detailed"]) as server:
        page_server = uvicorn.Server(uvicorn.Config(chat_app(server.url, MODEL), port=0, log_level="warning"))
        thread = threading.Thread(target=page_server.run, daemon=True)
        thread.start()
        while not page_server.started:
            time.sleep(0.05)
        port = page_server.servers[0].sockets[0].getsockname()[1]
        with chromium() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(f"http://127.0.0.1:{port}")
            page.fill("#question", options.question)
            for _ in range(1 + WARM_UP):
                page.click("#ask")
                page.locator("#judged .figures", has_text="strict's speed").wait_for(timeout=120_000)
            for way in ("strict", "judged"):
                print(way, page.locator(f"#{way} .figures").inner_text().split("\n"))
                print(page.locator(f"#{way} .text").text_content())
            page.screenshot(path=options.output)
        page_server.should_exit = True
        thread.join(10)
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
