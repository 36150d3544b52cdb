"""docs/hooks.md: what is changed in vLLM, in the code's own words.

It would catch: a change without a reason or an end, and a page that tells of yesterday's.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import write_hooks  # noqa: E402


def test_every_change_says_why_and_until_when():
    said = sum(path.read_text().count("Symptom:") for path in (ROOT / "vllm_judge" / "engine").rglob("*.py"))
    found = list(write_hooks.changes())
    assert len(found) == said > 10
    assert all(len(part) > 5 for change in found for part in change)


def test_the_page_is_what_the_code_says():
    assert write_hooks.PAGE.read_text() == write_hooks.page(), "run scripts/write_hooks.py"
