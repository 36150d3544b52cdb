"""The command line before anything is run: what is imported, what help says, how an error looks.

It would catch: a heavy import at the top of a command's file, a command without an example, an error that escapes as a
traceback, a table that is cut where output is piped.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vllm_judge import errors
from vllm_judge.cli import app, screen

# What help has no use for; vLLM and PyTorch alone take seconds.
HEAVY = ("torch", "vllm", "transformers", "numpy", "scipy", "sklearn", "matplotlib", "datasets", "lm_eval")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command that does something."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield *path, name


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_help_imports_nothing_heavy():
    code = f"""
import sys
import vllm_judge.cli
try:
    vllm_judge.cli.app(["court", "--help"])
finally:
    print(*sorted(set({HEAVY!r}) & sys.modules.keys()), "loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_shows_how_it_is_called(path):
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "1000"})
    assert done.exit_code == 0
    assert f"For example: vllm-judge {' '.join(path)} " in done.output


def _failing_with(member: type[Exception]) -> Callable[[], None]:
    def fails() -> None:
        raise member("threshold is 2: give a number from 0 to 1.")

    return fails


def test_an_error_of_the_family_is_a_sentence_and_an_exit_code():
    family = [errors.JudgeError, *errors.JudgeError.__subclasses__()]
    assert len(family) > 1 and {one.exit_code for one in family} == {1, 3}, "3: measured, and the answer is no"
    for member in family:
        group = typer.Typer(cls=screen.Commands)

        group.callback(invoke_without_command=True)(_failing_with(member))
        done = CliRunner().invoke(group, [])
        assert (done.exit_code, done.output) == (
            member.exit_code,
            "vllm-judge: threshold is 2: give a number from 0 to 1.\n",
        )


def test_a_table_that_is_piped_is_not_cut(capsys):
    from rich.table import Table

    table = Table("a long heading", "and another one")
    table.add_row("x" * 70, "y" * 70)
    screen.console().print(table)
    assert "x" * 70 in capsys.readouterr().out
