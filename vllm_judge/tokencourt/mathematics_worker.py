"""The process behind `mathematics`: a line of JSON in, a verdict out, until its input ends.

It ends itself where a question takes too long: an alarm without a handler kills even in the middle of a calculation.
"""

import json
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Derivative, Eq, Expr, Integral, Limit, MatrixBase, Product, Rational, Sum, nan, zoo

SECONDS = 5
MEMORY = 4 << 30  # bytes
UNEVALUATED = (Sum, Product, Integral, Limit, Derivative)
CLOSE = Rational(1, 10**6)
DECIMALS = re.compile(r"\.(\d+)\s*(?:(?:\*|\\times|\\cdot)\s*10\s*\^\s*\{?(-?\d+)\}?)?$")
PERCENT = r"\%"


@lru_cache(maxsize=4096)
def read(latex: str, units: bool) -> Any:
    """What LaTeX says, None where it cannot be read whole; `units` behind it are left out where asked for."""
    normalization = NormalizationConfig(units=units, malformed_operators=True, nits=True, boxed="last")
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)
    found = parse(
        f"\\boxed{{{latex}}}", [config], fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True
    )
    if len(found) != 1 or not isinstance(found[0], Basic | MatrixBase) or found[0].has(nan, zoo):
        return None
    return found[0]


def number(latex: str | None) -> Any:
    """The finite number that LaTeX says, that of percents by itself; None where it is anything else."""
    value = read(latex.removesuffix(PERCENT), True) if latex else None
    if isinstance(value, Eq):
        value = value.rhs
    if value is None or not isinstance(value, Expr) or value.free_symbols:
        return None
    value = value.doit()
    return value if value.is_number and value.is_finite else None


def is_rounded(latex: str, value: Any, exact: Any) -> bool:
    """Whether a number with decimals is another one, rounded to so many."""
    decimals = DECIMALS.search(latex)
    if decimals is None:
        return False
    unit = Rational(10) ** (int(decimals[2] or 0) - len(decimals[1]))
    return bool(abs(value - exact) <= Rational(51, 100) * unit)


def verdict(reference: list[str | None], found: list[str | None], numeric: bool) -> str:
    """As `mathematics.compare` says."""
    wanted, given = number(reference[0]), number(found[0])
    if wanted is not None and given is not None:
        return verdict_on_numbers(str(reference[0]), wanted, str(found[0]), given)
    if numeric or not reference[1] or not found[1]:
        return "unknown"
    wanted, given = read(reference[1], False), read(found[1], False)
    if wanted is None or given is None:
        return "unknown"
    if is_equal(wanted, given):
        return "right"
    return "unknown" if any(one.has(*UNEVALUATED) for one in (wanted, given)) else "wrong"


def verdict_on_numbers(reference: str, wanted: Any, found: str, given: Any) -> str:
    """Right where they are equal, percents read either way; unknown where one is the other, rounded."""
    percents = reference.endswith(PERCENT) - found.endswith(PERCENT)
    readings = (given, given * Rational(100) ** percents) if percents else (given,)
    # The library rounds to six decimals, and would call all very small numbers equal.
    if any(is_equal(wanted, one) and abs(wanted - one) <= CLOSE * abs(wanted) for one in readings):
        return "right"
    rounded = any(is_rounded(found, one, wanted) or is_rounded(reference, wanted, one) for one in readings)
    return "unknown" if rounded else "wrong"


def is_equal(wanted: Any, given: Any) -> bool:
    return bool(verify(wanted, given, timeout_seconds=None, raise_on_error=True))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        signal.alarm(SECONDS)
        try:
            reply = verdict(*json.loads(line))
        except (Exception, RecursionError, MemoryError):
            reply = "unknown"
        signal.alarm(0)
        print(reply, flush=True)


if __name__ == "__main__":
    main()
