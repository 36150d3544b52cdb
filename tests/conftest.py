"""Settings of all tests; and, since a conftest.py puts its folder on the import path, tests/*.py can be imported."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples every run, and no time limit on one: the first call into PyTorch may take seconds.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two files of tests at a time; on a GPU one, since an engine takes its memory."""
    return 1 if torch.cuda.is_available() else 2


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A command that is called in a test's process quietens vLLM, and vLLM preloads an OpenMP runtime: for that process
    and its children, and for no later test's."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("drafters", "tests/engine/test_drafters.py")
    group.addoption("--every-drafter", action="store_true", help="run every drafter, not only some")
    group.addoption("--write-support", metavar="FILE", help="keep what the tests show of each drafter")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--every-drafter"):
        return
    for item in items:
        if item.get_closest_marker("every_drafter") is not None:
            item.add_marker(pytest.mark.skip(reason="runs with --every-drafter"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests recorded as "printed at the end", wherever they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "printed at the end":
                terminalreporter.section(report.nodeid.rpartition("::")[2])
                terminalreporter.write_line(text)
    if file := terminalreporter.config.getoption("--write-support"):
        write_support(Path(file), dict(shown(terminalreporter)))


Cell = tuple[str, str, str]  # runner, drafter, feature


def shown(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[Cell, tuple[str, str]]]:
    """What tests recorded as "support", and that it failed where they failed afterwards."""
    for outcome in ("passed", "skipped", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "support":
                    *cell, result, reason = value
                    yield tuple(cell), ("failed", "") if outcome == "failed" else (result, reason)


def write_support(file: Path, cells: dict[Cell, tuple[str, str]]) -> None:
    """Writes what tests have shown; of cells that none of them was about, the file keeps what it held."""
    import vllm

    known = json.loads(file.read_text())["cells"] if file.exists() else []
    merged = {tuple(cell[:3]): tuple(cell[3:]) for cell in known} | cells
    lines = ",\n".join(json.dumps([*cell, *result]) for cell, result in sorted(merged.items()))
    version = json.dumps(vllm.__version__.partition("+")[0])
    file.write_text(f'{{"vllm": {version}, "cells": [\n{lines}\n]}}\n')
