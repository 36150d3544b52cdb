"""How a function of vLLM is wrapped: checked against the contract first, and once."""

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_judge.engine import contract


def _owner(target: str) -> tuple[Any, str]:
    """The module or class that holds "module:Class.function", and the function's name in it."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), name


def mismatch(target: str) -> str | None:
    """What is not as the contract says of a function of vLLM, as it is in this process; None if it fits."""
    try:
        owner, name = _owner(target)
        function = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        return f"{target} is gone ({error})"
    return contract.FUNCTIONS[target].mismatch(target, tuple(inspect.signature(function).parameters))


@dataclass(frozen=True)
class Hook:
    """A function of vLLM, "module:Class.function", and what is put around it: around(original, *args, **kwargs)."""

    target: str
    around: Callable[..., Any]

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
