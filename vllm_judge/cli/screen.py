"""What the commands have in common on the screen: errors as a sentence, progress, tables, and where each is written."""

import ctypes
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from vllm_judge import progress
from vllm_judge.errors import JudgeError

if TYPE_CHECKING:
    from rich.progress import Progress

# What a disk or a folder may refuse in the middle of any command.
NO_ROOM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
# A table that is piped into a file or a pager has no screen whose width it must keep to.
WIDE = 200
# Try it, make a head, deploy it, measure it.
IN_ORDER = (
    *("demo", "make", "court", "label", "train", "calibrate", "tune"),
    *("head", "validate", "push"),
    *("compare", "evaluate", "replay", "project", "report"),
)


class Commands(TyperGroup):
    """The group of all commands: the one place where an error becomes a sentence on standard error and exit code 1."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which they are used, where typer puts groups last."""
        return sorted(self.commands, key=IN_ORDER.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """--verbose is of all commands, and may stand behind any of them."""
        before, options = (args[: args.index("--")], args[args.index("--") :]) if "--" in args else (args, [])
        if "--verbose" in before:
            before = ["--verbose", *(one for one in before if one != "--verbose")]
        return super().parse_args(ctx, [*before, *options])

    def invoke(self, ctx: Any) -> Any:
        progress.show_by(_lines if progress.AS_LINES in os.environ else _bar)
        try:
            with _ended_in_order():
                return super().invoke(ctx)
        except JudgeError as error:
            fail(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            fail("interrupted: what is written is whole, and the same command goes on from there.")
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            fail(f"{error.filename or 'the output'} cannot be written: {error.strerror}; what is written is whole.")
            raise typer.Exit(1) from None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM, which whatever schedules jobs sends to a command alone, is an interruption too: its engines, processes
    of their own, would go on behind it and keep their memory."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would leave behind what the first is ending
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """A result in words, to standard output."""
    typer.echo(text)


def warn(text: str) -> None:
    """A warning, to standard error."""
    typer.echo(f"vllm-judge: warning: {text}", err=True)
    _event(warned=text)


def fail(text: str) -> None:
    """What went wrong, to standard error; the caller ends the command."""
    typer.echo(f"vllm-judge: {text}", err=True)
    _event(failed=text)


def end_with_parent() -> None:
    """Of a command that `make` runs: it is interrupted where `make` is killed, and does not work on behind its back."""
    parent = os.environ.get(progress.AS_LINES)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != int(parent):  # killed before that was said
            os.kill(os.getpid(), signal.SIGINT)


def console() -> Console:
    """Standard output for tables and paragraphs, as wide as the terminal, or wide enough where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def define(definitions: Mapping[str, str], out: Console) -> None:
    """Prints what numbers mean."""
    for name, meaning in definitions.items():
        out.print(f"{name.replace('_', ' ')}: {meaning}.")


def bars() -> "Progress":
    """A display of progress, on standard error."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True, highlight=False))


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    with bars() as shown:
        task = shown.add_task(title, total=total, completed=done)
        yield lambda: shown.advance(task)


@contextmanager
def _lines(title: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """For `make`, which shows the progress of all its commands as one."""
    counted = iter(range(done, sys.maxsize))

    def advance() -> None:
        _event(title=title, total=total, done=next(counted))

    advance()
    yield advance


def _event(**what: Any) -> None:
    if progress.AS_LINES in os.environ:
        print(progress.EVENT + json.dumps(what), flush=True)
