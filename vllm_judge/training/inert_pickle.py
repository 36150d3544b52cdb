"""Pickles read as data: nothing that they name is imported, called or made.

A pickle is a program for a stack machine, whose opcodes may import and call whatever they name. This machine knows the
opcodes that arrays and scikit-learn's estimators are written with (protocols 2 to 5), and instead of calling anything
notes what was to be called with what. The names that may be noted are a handful; every other one is refused.
"""

import io
import math
import pickletools
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from vllm_judge.errors import HeadError
from vllm_judge.hub import reason

# Arrays for the widest head there is take 64 MB.
MAX_BYTES = 256 << 20
# numpy 2 has moved numpy.core to numpy._core, scikit-learn 0.22 its modules behind an underscore.
NAMES = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    **{f"numpy.{core}.multiarray _reconstruct": "array" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "array from buffer" for core in ("core", "_core")},
    "_codecs encode": "bytes",  # what protocol 2 has for them
    **{f"sklearn.preprocessing.{data} StandardScaler": "StandardScaler" for data in ("data", "_data")},
    **{
        f"sklearn.linear_model.{logistic} LogisticRegression": "LogisticRegression"
        for logistic in ("logistic", "_logistic")
    },
    "sklearn.pipeline Pipeline": "Pipeline",
}
DTYPES = {order + kind for order in "<>|" for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "b1")}
_MARK = object()
T = TypeVar("T")


class Noted:
    """A name, or what would have come of calling it: `args` None is the name itself, `state` what it was to hold."""

    def __init__(self, name: str, args: tuple[Any, ...] | None = None):
        self.name, self.args = name, args
        self.state: Any = None


def read(path: Path) -> Any:
    """What a pickle holds: plain values, lists, tuples, dicts with text for keys, and Noted.

    Raises:
        HeadError: the file cannot be read, is too large, is no such pickle, or names what is not known.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise HeadError(f"{path} is larger than {MAX_BYTES >> 20} MiB: it holds more than a judge head.")
        return _run(path.read_bytes())
    except HeadError as error:
        raise HeadError(f"{path} was not imported: {error}") from None
    except OSError as error:
        raise HeadError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # what bytes can get wrong has no end
        raise HeadError(f"{path} is no pickle of a scikit-learn head: {reason(error)}") from None


def _run(program: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        """Takes everything above the topmost mark."""
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
        values = stack[start + 1 :]
        del stack[start:]
        return values

    value: Any  # an opcode's argument
    for opcode, value, _ in pickletools.genops(io.BytesIO(program)):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (result,) = stack
                return result
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(value)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(value)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[opcode.name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(values)))
            case "TUPLE":
                stack.append(tuple(marked()))
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if opcode.name == "APPEND" else marked()
                _typed(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else marked()
                for key, item in zip(pairs[::2], pairs[1::2], strict=True):
                    _typed(stack[-1], dict)[_typed(key, str)] = item
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(_named(value))
            case "STACK_GLOBAL":
                name = _typed(stack.pop(), str)
                stack.append(_named(f"{_typed(stack.pop(), str)} {name}"))
            case "NEWOBJ" | "REDUCE":
                args = _typed(stack.pop(), tuple)
                called = _typed(stack.pop(), Noted)
                if called.args is not None:
                    raise HeadError("it calls what is no name.")
                stack.append(Noted(called.name, args))
            case "BUILD":
                state = stack.pop()
                made = _typed(stack[-1], Noted)
                if made.args is None:
                    raise HeadError("it gives a state to a name.")
                made.state = state
            case other:
                raise HeadError(f"it uses the opcode {other}, which a head has no use for.")
    raise HeadError("it ends too early.")


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise HeadError(f"it has a value of type {type(value).__name__} where {kind.__name__} belongs.")
    return value


def _named(name: str) -> Noted:
    if name not in NAMES:
        shown = name.replace(" ", ".", 1)
        raise HeadError(f"it names {shown[:200]!r}, and only arrays, StandardScaler and LogisticRegression are known.")
    return Noted(NAMES[name])


def array(noted: Any) -> np.ndarray:
    """The numbers that were noted as an array or as a scalar of numpy's.

    Returns:
        float64, of the shape that was noted, a copy.

    Raises:
        HeadError: it is something else, or its bytes do not fit its shape.
    """
    try:
        return _array(noted)
    except (ValueError, OverflowError) as error:
        if isinstance(error, HeadError):
            raise
        raise HeadError(f"it holds a damaged array: {reason(error)}") from None


def _array(noted: Any) -> np.ndarray:
    match noted:
        case Noted(name="array", state=(_, shape, dtype, bool() as fortran, data)):
            order: Literal["C", "F"] = "F" if fortran else "C"
        case Noted(name="array from buffer", args=(data, dtype, shape, "C" | "F" as order)):
            pass
        case Noted(name="scalar", args=(dtype, data)):
            shape, order = (), "C"
        case _:
            raise HeadError("it holds something else where an array belongs.")
    if len(_typed(shape, tuple)) > 2:
        raise HeadError(f"it holds an array of {len(shape)} dimensions.")
    values = np.frombuffer(_bytes(data), _dtype(dtype))
    shape = tuple(_typed(length, int) for length in shape)
    if min(shape, default=0) < 0 or len(values) != math.prod(shape):
        raise HeadError(f"it holds an array of shape {shape} with {len(values)} numbers.")
    return values.reshape(shape, order=order).astype(np.float64)


def _dtype(noted: Any) -> np.dtype:
    match noted:
        case Noted(name="dtype", args=(str() as kind, *_), state=(_, str() as order, *_)) if order + kind in DTYPES:
            return np.dtype(order + kind)
    raise HeadError("it holds an array of something else than numbers.")


def _bytes(noted: Any) -> bytes:
    match noted:
        case bytes() | bytearray():
            return bytes(noted)
        case Noted(name="bytes", args=(str() as text, "latin1")):
            return text.encode("latin1")
    raise HeadError("it holds an array without bytes.")
