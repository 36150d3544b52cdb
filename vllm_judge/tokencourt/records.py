"""JSONL files that survive a kill, a full disk and a second writer: one pydantic record a line, in UTF-8."""

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from vllm_judge.errors import JudgeError

logger = logging.getLogger(__name__)

CUT_OFF = "the last line is cut off, as by a kill: `vllm-judge court check --repair {path}` sets it aside"
R = TypeVar("R", bound=BaseModel)
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8 with a byte order mark", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line.

    Attributes:
        line: its number, from 1.
        field: dotted name of the field, empty where the line as a whole is meant.
        message: what was found, without a full stop.
    """

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field + ': ' if self.field else ''}{self.message}"


@dataclass(frozen=True)
class Line(Generic[R]):
    """A line of a file: its number, and the record or, where there is none, what is wrong."""

    number: int
    record: R | None
    problems: tuple[Problem, ...] = ()
    is_cut_off: bool = False


def scan(path: Path, kind: type[R]) -> Iterator[Line[R]]:
    """Reads a file line by line and never stops at a bad line.

    Raises:
        JudgeError: the file does not exist, cannot be read, or is in another encoding as a whole.
    """
    try:
        with path.open("rb") as file:
            _refuse_other_encodings(path, file.peek(4)[:4])
            for number, raw in enumerate(file, 1):
                yield _parse(path, number, raw, kind)
    except OSError as error:
        raise JudgeError(f"{path} cannot be read: {error.strerror}.") from None


def read(path: Path, kind: type[R]) -> list[R]:
    """All records of a file.

    Raises:
        JudgeError: the file cannot be read, or a line of it is bad; the message names the first one.
    """
    records = []
    for line in scan(path, kind):
        if line.record is None:
            raise JudgeError(f"{path}, {line.problems[0]}.")
        records.append(line.record)
    return records


def write(path: Path, records: Iterable[BaseModel]) -> None:
    """Writes a whole file at once: it holds the old records or the new ones, never a part.

    Raises:
        JudgeError: the file cannot be written; what it held before is untouched.
    """
    place = path.resolve()  # what a link points to is replaced, not the link
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for record in records:
                file.write(_encode(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError as error:
        raise JudgeError(f"{path} cannot be written: {error.strerror}. It is as it was before.") from None
    finally:
        temporary.unlink(missing_ok=True)


def refuse_repeated_ids(path: Path, found: Iterable[Any]) -> None:
    """Refuses records of a file of which two have one `id`.

    Raises:
        JudgeError: two have.
    """
    seen: set[str] = set()
    for one in found:
        if one.id in seen:
            raise JudgeError(f"{path} holds the id {one.id!r} twice: ids must be unique.")
        seen.add(one.id)


def json_value(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or holds a number or nesting beyond what can be read; the message says it in words.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it holds a number that is too long ({error})") from None


def explain(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in words."""
    field, message = _explain(error.errors()[0])
    return f"{field}: {message}" if field else message


def repair(path: Path) -> str | None:
    """Sets a cut-off last line aside, into `PATH.cut`. Returns what was done, or None where nothing was wrong."""
    with Appender[BaseModel](path) as appender:
        return appender.repaired


class Appender(Generic[R]):
    """Adds records to the end of a file, each one whole or not at all; the file is made where there is none.

    Opening it locks the file against a second writer and mends its end: a last line that a kill cut off moves to
    `PATH.cut`, a complete one that only lacks its newline gets it. What was mended is logged as a warning.

    Attributes:
        repaired: what was mended, None where nothing was wrong.

    Raises:
        JudgeError: the file cannot be opened, another process writes to it, or (in `append`) the disk is full.
    """

    def __init__(self, path: Path, durable: bool = False):
        """`durable`: `append` returns only once the disk has the record, so that a power cut loses none."""
        self.path, self.durable = path, durable
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise JudgeError(f"another process is writing to {path}: wait for it, or name another file.") from None
        except OSError as error:
            raise JudgeError(f"{path} cannot be written: {error.strerror}.") from None
        self._size = os.fstat(self._file).st_size
        try:
            self.repaired = self._mend()
        except (OSError, JudgeError) as error:
            os.close(self._file)
            if isinstance(error, JudgeError):
                raise
            raise JudgeError(f"{path} cannot be mended: {error.strerror}. It is as it was before.") from None
        if self.repaired:
            logger.warning(self.repaired)

    def append(self, record: R) -> None:
        """Adds one record; after an error the file is as it was before."""
        self._write(_encode(record))

    def close(self) -> None:
        """Ends the writing and releases the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _mend(self) -> str | None:
        head = os.pread(self._file, 4, 0)
        _refuse_other_encodings(self.path, head)
        tail = self._unfinished_tail()
        if not tail:
            return None
        if _is_json(tail):
            self._write(b"\n")
            return f"{self.path}: added the missing newline after the last line."
        if not _is_cut_off(tail):
            raise JudgeError(f"{self.path} is no JSONL: its last line is no record, nor the beginning of one.")
        aside = self.path.with_name(self.path.name + ".cut")
        with aside.open("ab") as file:
            file.write(tail + b"\n")
        self._size -= len(tail)
        os.ftruncate(self._file, self._size)
        return f"{self.path}: the last line was cut off, as by a kill; its {len(tail)} bytes are now in {aside.name}."

    def _unfinished_tail(self) -> bytes:
        tail, end, step = b"", self._size, 1 << 16
        while end and b"\n" not in tail:
            start = max(0, end - step)
            tail = os.pread(self._file, end - start, start) + tail
            end = start
        return tail[tail.rfind(b"\n") + 1 :]

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
            if self.durable:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise JudgeError(
                f"{self.path} cannot be written: {error.strerror}. All lines before are kept; make room and run again."
            ) from None
        self._size += len(data)


def _encode(record: BaseModel) -> bytes:
    try:
        return record.model_dump_json(exclude_none=True).encode() + b"\n"
    except PydanticSerializationError as error:
        raise JudgeError(f"the record {record!r:.80} cannot be written as JSON: {error}.") from None


def _is_json(raw: bytes) -> bool:
    try:
        return isinstance(json_value(raw), dict)
    except ValueError:
        return False


def _is_cut_off(line: bytes) -> bool:
    """Whether a line is the beginning of a record, as a kill leaves it: no other text is taken for one."""
    return not line.endswith(b"\n") and line.startswith(b"{") and not _is_json(line)


def _refuse_other_encodings(path: Path, head: bytes) -> None:
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            raise JudgeError(f"{path} is {name}: save it as plain UTF-8.")


def _parse(path: Path, number: int, raw: bytes, kind: type[R]) -> Line[R]:
    if _is_cut_off(raw):
        return Line(number, None, (Problem(number, "", CUT_OFF.format(path=path)),), is_cut_off=True)
    try:
        value = json_value(raw.decode())
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} ({raw[error.start]:#04x}) is not UTF-8"
        return Line(number, None, (Problem(number, "", found),))
    except ValueError as error:
        return Line(number, None, (Problem(number, "", f"not JSON: {error}"),))
    try:
        return Line(number, kind.model_validate(value))
    except ValidationError as error:
        return Line(number, None, tuple(Problem(number, *_explain(found)) for found in error.errors()))


def _explain(error: Any) -> tuple[str, str]:
    """The field and the message of a pydantic error."""
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return field, "is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return field, message
    found = repr(error["input"])
    return field, f"{message}, found {found if len(found) <= 80 else found[:77] + '...'}"
