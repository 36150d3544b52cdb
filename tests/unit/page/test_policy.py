"""Pages that are written to files, in real Chromium, with texts of strangers in every place.

It would catch: a template that lets a text become markup, a script or style that the page's own policy does not let
run, and a policy that would let a stranger's run.
"""

from pathlib import Path
from typing import Any

import pytest
from chromium import HOSTILE, assert_nothing_was_taken_or_can_be, chromium

from vllm_judge.page.parts import Excerpt, Picture, Row, Section, Table, text
from vllm_judge.page.render import render

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
TABLE = Table(HOSTILE, [HOSTILE], [Row([text(HOSTILE)], marked=True)])
ABOUT = {"settings": {HOSTILE: HOSTILE}, "machine": {"device": HOSTILE}, "command": HOSTILE}


def replay() -> str:
    token = {"verdict": "judge only", "detail": HOSTILE, "piece": HOSTILE}
    return render(
        "vllm_judge.replay",
        "replay.html.jinja",
        method=HOSTILE,
        table=TABLE,
        picture=Picture(PIXEL, HOSTILE, HOSTILE),
        shown=1,
        total=2,
        authors={HOSTILE: [{"prompt": HOSTILE, "tokens": [token, token]}]},
        definitions={HOSTILE: HOSTILE},
        about=ABOUT,
    )


def report() -> str:
    section = Section(
        HOSTILE,
        HOSTILE,
        [TABLE],
        {HOSTILE: HOSTILE},
        pictures=[Picture(PIXEL, HOSTILE, HOSTILE)],
        excerpts=[Excerpt(HOSTILE, HOSTILE, [("judge only", HOSTILE)])],
        **ABOUT,
    )
    sections = {HOSTILE: section}
    return render(
        "vllm_judge.report",
        "report.html.jinja",
        sections=sections,
        version=HOSTILE,
        command=HOSTILE,
        unknown=[HOSTILE],
    )


@pytest.fixture(scope="module")
def browser() -> Any:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("made", [replay, report])
def test_a_page_shows_texts_and_runs_nothing_but_its_own(browser, tmp_path, made):
    file: Path = tmp_path / "page.html"
    file.write_text(made(), encoding="utf-8")
    page, refused = browser.new_page(), []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    assert refused == []
    assert page.locator(".text").first.text_content().strip().startswith(HOSTILE)
    assert page.evaluate("getComputedStyle(document.querySelector('.token.judge-only')).backgroundColor") == (
        "rgb(253, 229, 176)"
    )
    if made is replay:
        page.locator(".text .token").first.click()
        assert page.locator("#detail").text_content() == HOSTILE
    assert_nothing_was_taken_or_can_be(page)


def test_no_two_pages_have_the_same_nonce():
    assert replay() != replay()
