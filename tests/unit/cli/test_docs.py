"""Every command that a page prints is one that the command line takes.

It would catch: an option that was renamed, a value that is no longer one, a command that moved. scripts/run_docs.py
also runs them.
"""

import re
import shlex
import sys
from pathlib import Path

import click
import pytest
import typer

from vllm_judge.cli import app

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
from run_docs import PAGES, blocks

PRINTED = sorted(
    {(page, one) for page in PAGES for block in blocks(page) for one in block.commands if one.startswith("vllm-judge ")}
)


def test_the_pages_print_commands():
    assert {page for page, _ in PRINTED} == set(PAGES)
    assert len(PRINTED) > 25


@pytest.mark.parametrize(("page", "printed"), PRINTED, ids=lambda value: value)
def test_a_printed_command_is_one_that_is_taken(page, printed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.sub(r"\$\(.*?\)|\$[A-Z]+", "{}", printed))[1:]
    for word in words:  # a file that a command must find
        if re.fullmatch(r"[\w-]+\.jsonl?", word):
            Path(word).touch()
    command: click.Command = typer.main.get_command(app)
    name = "vllm-judge"
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)
