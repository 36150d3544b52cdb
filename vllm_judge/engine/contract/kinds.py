"""What can be expected of vLLM: a function's parameters, a class's or module's names, a definition's text.

Each kind finds in vLLM's sources what it is about (a value that JSON can hold, None where it is gone) and says in words
what does not fit of what was found. Targets are written as in sources.py.
"""

from dataclasses import dataclass
from typing import Any

from vllm_judge.engine.contract.sources import Sources


@dataclass(frozen=True)
class Function:
    """A function or Triton kernel that is wrapped, called, launched or overridden.

    Attributes:
        parameters: the first ones, in order.
        extras: names that a version may have behind them, and nothing else.
    """

    target: str
    parameters: tuple[str, ...]
    extras: tuple[str, ...] = ()

    def find(self, sources: Sources) -> list[str] | None:
        return sources.parameters(self.target)

    def mismatch(self, found: Any) -> str | None:
        if found is None:
            return f"{self.target} is gone"
        first, rest = tuple(found[: len(self.parameters)]), set(found[len(self.parameters) :])
        if first == self.parameters and rest <= set(self.extras):
            return None
        also = f" and at most {self.extras} behind them" if self.extras else ""
        return f"{self.target} takes {tuple(found)}, expected {self.parameters}{also}"


@dataclass(frozen=True)
class Names:
    """A class or module that is read, and the names that it must have (among others)."""

    target: str
    names: tuple[str, ...]

    def find(self, sources: Sources) -> list[str] | None:
        names = sources.names(self.target)
        return None if names is None else sorted(names & set(self.names))

    def mismatch(self, found: Any) -> str | None:
        if found is None:
            return f"{self.target} is gone"
        missing = sorted(set(self.names) - set(found))
        return f"{self.target} has no {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Text:
    """A definition that is said again here, or relied on line by line, and the digests of its text in the versions that
    were read."""

    target: str
    digests: tuple[str, ...]

    def find(self, sources: Sources) -> str | None:
        return sources.digest(self.target)

    def mismatch(self, found: Any) -> str | None:
        if found is None:
            return f"{self.target} is gone"
        if found in self.digests:
            return None
        return f"{self.target} is not the text that was read: its digest is {found}, expected {self.digests}"


Expectation = Function | Names | Text
