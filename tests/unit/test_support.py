"""docs/support.md is what the tests have shown. It would catch a page written by hand, or one that is out of date."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import write_support


def test_the_page_is_made_of_the_results_and_of_nothing_else():
    assert write_support.PAGE.read_text() == write_support.page(write_support.results()), (
        "run scripts/write_support.py, and write nothing into the page by hand"
    )


def test_a_cell_is_tested_only_if_all_of_its_tests_have_passed():
    shown = [["v1", "a", "default", "tested", ""], ["v1", "a", "accept all", "tested", ""]]
    mixed = ["v1", "a", "mixed", "tested", ""]
    lacking = ["v2", "b", "all", "vLLM's own limit", "It lacks it."]

    def rows(cells):
        page = write_support.page([{"vllm": "1.2", "cells": [*cells, lacking]}])
        return [line.split(" | ")[3] for line in page.splitlines() if line.startswith(("| a", "| b"))]

    assert rows(shown) == ["-", "limit"]
    assert rows([*shown, mixed]) == ["tested", "limit"]
    assert rows([*shown, [*mixed[:3], "failed", ""]]) == ["**fails**", "limit"]
    assert "- V2, b: vLLM's own limit: It lacks it." in write_support.page([{"vllm": "1.2", "cells": [lacking]}])
