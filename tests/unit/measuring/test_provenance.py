"""What every file of results says of its origin.

It would catch: a command that names the folder of somebody's installation, and figures without versions or commit.
"""

import re
import sys

import pytest
import torch

from vllm_judge.measuring.provenance import about


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/home/me/.venv/bin/vllm-judge", "demo", "--json", "a file.json"], "vllm-judge demo --json 'a file.json'"),
        (["/home/me/checkout/scripts/quickstart.py", "-n", "8"], "scripts/quickstart.py -n 8"),
    ],
)
def test_the_command_is_what_one_would_type_anywhere(arguments, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments)
    assert about({})["command"] == command


def test_settings_machine_and_versions_are_there():
    said = about({"n": 8})
    assert said["settings"] == {"n": 8}
    machine = said["machine"]
    assert machine["cores"] >= 1 and machine["device"] and machine["cpu"]
    assert machine["torch"].startswith(torch.__version__.partition("+")[0])
    assert machine["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", machine["commit"])
