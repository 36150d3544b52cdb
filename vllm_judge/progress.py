"""How far the long steps are: rooms say it here, and whoever has a screen shows it (the commands: cli/screen.py)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

# Set by who runs a command to pass its progress on: it comes on standard output, as lines of JSON behind EVENT.
AS_LINES = "VLLM_JUDGE_PROGRESS_AS_LINES"
EVENT = "\x1e"

T = TypeVar("T")
Advance = Callable[[], None]
# (title, total, done at the start) to a context that yields the function that moves it by one.
Show = Callable[[str, int, int], AbstractContextManager[Advance]]


def _nowhere(title: str, total: int, done: int) -> AbstractContextManager[Advance]:
    return nullcontext(lambda: None)


_show: Show = _nowhere


def show_by(show: Show) -> None:
    """From now on progress is shown so; before that it is not shown at all."""
    global _show
    _show = show


def bar(title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
    """A bar, `done` of `total` from the start; yields the function that moves it by one."""
    return _show(title, total, done)


def track(title: str, items: Sequence[T]) -> Iterator[T]:
    """The items one by one, with a bar that moves as they are done."""
    with bar(title, len(items)) as advance:
        for item in items:
            yield item
            advance()
