"""What every file of results says of its origin.

It would catch: a command that names the folder of somebody's installation, figures without versions or commit, and
results that are written over another command's.
"""

import json
import re
import sys

import pytest
import torch

from vllm_judge.errors import JudgeError
from vllm_judge.measuring.provenance import about, claim


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


def test_results_are_written_over_by_the_same_command_only(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "demo.json"
    monkeypatch.setattr(sys, "argv", ["vllm-judge", "demo", "-n", "8"])
    claim(path)
    path.write_text(json.dumps(about({"n": 8})))
    claim(path)
    monkeypatch.setattr(sys, "argv", ["vllm-judge", "demo", "-n", "9"])
    with pytest.raises(JudgeError, match="another command, vllm-judge demo -n 8: choose"):
        claim(path)


@pytest.mark.parametrize("content", ["[]", "{}", "a text", '{"id": "q1"}\n{"id": "q2"}\n'])
def test_results_are_not_written_over_anything_else(content, tmp_path):
    path = tmp_path / "court.jsonl"
    path.write_text(content)
    with pytest.raises(JudgeError, match="holds no results"):
        claim(path)
    with pytest.raises(JudgeError, match="is no file"):
        claim(tmp_path)
