"""Writes docs/support.md from what tests have shown, and from nothing else.

    scripts/test.sh tests/engine/test_drafters.py --every-drafter --write-support docs/measurements/support_0.32.0.json
    .venv/bin/python scripts/write_support.py

The first command keeps what each test showed: [runner, drafter, feature, result, reason]; tests/unit/test_support.py
holds the page to these files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements"
PAGE = ROOT / "docs" / "support.md"
ALL = "all"
# Of the results of a cell, which the page says, the worst first, and in which word.
WORDS = {"failed": "**fails**", "refused": "refused", "vLLM's own limit": "limit", "not run": "-", "tested": "tested"}
# The page's columns, and the features whose tests they stand for: all of them must have passed.
COLUMNS = {
    "rejects all = strict": ("head that rejects all",),
    "every step = reference": ("default", "accept all", "mixed"),
    "asynchronous": ("asynchronous scheduling",),
    "by batch size": ("drafts by batch size",),
    "adaptive": ("adaptive verification",),
    "pipeline": ("pipeline parallelism",),
    "data parallel": ("two data-parallel engines, two servers",),
}

HEAD = """# What runs with what

Written by `scripts/write_support.py` from what `tests/engine/test_drafters.py --every-drafter` showed
([CONTRIBUTING](../CONTRIBUTING.md)): what stands here was run, on tiny random checkpoints, fp32, on CPU, model runner
V2 in Triton's interpreter.

- **tested**: did what it has to. **refused**: by us, in one sentence, at start. **limit**: vLLM itself cannot, and says
  so, below. **-**: not run.
- **rejects all = strict**: with a head that rejects everything the text is vLLM's own without a judge, token for token,
  greedy and sampled.
- **every step = reference**: with a random head that reads evidence, at its own threshold, at 0 and with requests of
  different dials in one batch, the text is the one that `kernels/reference.py` makes of the same drafts with
  transformers' target, and the counters of accepted and judge-only tokens are the sums of its steps.
- **asynchronous**: asynchronous scheduling (vLLM's default on GPUs, switched on here) changes neither texts nor counts.
- **by batch size**: `num_speculative_tokens_per_batch_size`, as *every step*.
- **adaptive**: `enable_adaptive_verification`, which V2 has on GPUs only. **pipeline**: two pipeline stages.
- **data parallel**: two data-parallel engines behind two API servers, over HTTP: texts exact, counters the sums.
"""


class Cell(NamedTuple):
    """What a test has shown."""

    runner: str
    drafter: str
    feature: str
    result: str
    reason: str


def page(results: list[dict[str, Any]]) -> str:
    """docs/support.md of files of results, each {"vllm": version, "cells": [...]}."""
    return "\n".join([HEAD, *(line for found in results for line in _version(found))])


def _version(found: dict[str, Any]) -> Iterator[str]:
    cells = [Cell(*cell) for cell in found["cells"]]
    yield f"## vLLM {found['vllm']}\n"
    yield f"| drafter | runner | {' | '.join(COLUMNS)} |"
    yield f"|---|---|{'---|' * len(COLUMNS)}"
    for drafter, runner in sorted({(cell.drafter, cell.runner) for cell in cells}):
        of_row = [cell for cell in cells if (cell.drafter, cell.runner) == (drafter, runner)]
        words = (_word(of_row, features) for features in COLUMNS.values())
        yield f"| {drafter} | {runner.upper()} | {' | '.join(words)} |"
    yield ""
    of_reason: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.reason:
            of_reason.setdefault((cell.runner, cell.result, cell.reason), []).append(cell.drafter)
    for (runner, result, reason), names in of_reason.items():
        yield f"- {runner.upper()}, {'; '.join(names)}: {result}: {reason}"
    yield ""


def _word(of_row: list[Cell], features: tuple[str, ...]) -> str:
    results = {cell.feature: cell.result for cell in of_row}
    shown = [results.get(feature, results.get(ALL, "not run")) for feature in features]
    return next(word for result, word in WORDS.items() if result in shown)


def results() -> list[dict[str, Any]]:
    """What the repository holds, the oldest vLLM first."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("support_*.json"))]


if __name__ == "__main__":
    PAGE.write_text(page(results()), encoding="utf-8")
