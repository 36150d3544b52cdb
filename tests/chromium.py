"""A real Chromium for the tests of pages, and what no page may let happen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What keeps a browser quiet in a sandbox without a network.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
# Text that a page must show as it is: markup that would run a script, in every way that is commonly forgotten.
HOSTILE = (
    "<script>window.taken = 1</script><img src=x onerror='window.taken = 2'>\"'><svg/onload=window.taken=3>"
    "</script></style><b>&amp;</b>{{ 7 * 7 }}${window.taken=4}"
)


@contextmanager
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages are not tested in a browser")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def shows(locator: Any, text: str) -> None:
    """Waits for a text. (A page's own policy forbids Playwright's other way, to evaluate a condition in the page.)"""
    from playwright.sync_api import expect

    expect(locator).to_have_text(text, timeout=60_000)


def assert_nothing_was_taken_or_can_be(page: Any) -> None:
    """No script of a stranger ran, and even one that had got into the page would not: its policy forbids it."""
    assert page.evaluate("window.taken") is None
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.taken = 'inline'";
            document.body.append(script);
            const image = document.createElement("div");
            image.innerHTML = "<img src=x onerror=\\"window.taken = 'handler'\\">";
            document.body.append(image);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.taken") is None
    with pytest.raises(Exception, match=r"Failed to fetch|Refused to connect|Content Security Policy"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
