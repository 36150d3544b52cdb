"""Settings of all tests; and, since a conftest.py puts its folder on the import path, tests/*.py can be imported."""

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests recorded as "printed at the end", wherever they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "printed at the end":
                terminalreporter.section(report.nodeid.rpartition("::")[2])
                terminalreporter.write_line(text)
