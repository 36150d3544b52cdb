"""How a function of vLLM is wrapped: once, and only if it is as the contract says."""

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_judge.engine.contract import HOOKED, Function

_FUNCTIONS = {function.target: function for function in HOOKED}


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that holds "module:Class.function", and the function's name in it."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), name


def mismatch(function: Function) -> str | None:
    """What is not as expected of a function, as it is in this process, where another plugin may have replaced it."""
    try:
        owner, name = _owner(function.target)
        found = list(inspect.signature(getattr(owner, name)).parameters)
    except (ImportError, AttributeError):
        found = None
    return function.mismatch(found)


@dataclass(frozen=True)
class Hook:
    """A function of the contract, and what is put around it: around(original, *args, **kwargs)."""

    target: str
    around: Callable[..., Any]

    def mismatch(self) -> str | None:
        return mismatch(_FUNCTIONS[self.target])

    def install(self) -> None:
        """Puts `around` in place, once."""
        owner, name = _owner(self.target)
        original = inspect.getattr_static(owner, name)
        static = isinstance(original, staticmethod)
        function = original.__func__ if static else original
        if hasattr(function, "_vllm_judge"):
            return

        @functools.wraps(function)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return self.around(function, *args, **kwargs)

        hooked._vllm_judge = True  # type: ignore[attr-defined]
        setattr(owner, name, staticmethod(hooked) if static else hooked)
