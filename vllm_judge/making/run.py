"""A step run: a command in a process of its own, whose words and progress are passed on, and whose log is kept.

A process for each step gives all memory back when it ends, and lets an engine die without the others: what vLLM leaves
behind, on a GPU too, is the next step's in no process but a fresh one.
"""

import fcntl
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from vllm_judge.errors import JudgeError, PromiseError
from vllm_judge.judge_json import JUDGE_JSON
from vllm_judge.making.step import PROMISE, SPEED, Record, Step, fingerprint
from vllm_judge.progress import AS_LINES, EVENT

LOG = "make.log"
POLL_SECONDS = 1.0
KEPT_EVERY = 2.0  # seconds: how far a step is, for the next plan


class Shown(Protocol):
    """Who has a screen."""

    def step(self, step: Step, number: int, of: int) -> None:
        """A step begins."""

    def progress(self, title: str, total: int, done: int) -> None:
        """How far it is."""

    def words(self, line: str) -> None:
        """It says something."""


@contextmanager
def alone(work: Path) -> Iterator[IO[bytes]]:
    """The log of a folder of work, open to this process alone.

    Raises:
        JudgeError: another process makes something there, or it cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        opened = (work / LOG).open("ab", buffering=0)
    except OSError as error:
        raise JudgeError(f"{work} cannot be written: {error.strerror}: choose another folder with --work.") from None
    with opened as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JudgeError(
                f"another `vllm-judge make` is at work in {work}: wait for it, or choose --work."
            ) from None
        yield log


def run_all(steps: Sequence[Step], work: Path, home: Path, shown: Shown) -> None:
    """Runs the steps that are not done yet.

    Raises:
        JudgeError: a step failed, in the words of its command; what the steps before it made is kept.
        PromiseError: no number of drafts and no threshold could be shown to keep the promise.
    """
    with alone(work) as log:
        for number, step in enumerate(steps, 1):
            if step.pace == SPEED:
                _refuse_where_none_kept([one for one in steps if one.pace == PROMISE])
            if not step.is_done():
                shown.step(step, number, len(steps))
                _Run(step, home, log, shown).run()


def _refuse_where_none_kept(promises: Sequence[Step]) -> None:
    if not any(any(step.output.glob(f"*/{JUDGE_JSON}")) for step in promises):
        said = [f"{step.name}: {line}" for step in promises for line in step.record().said.splitlines()]
        raise PromiseError("\n".join(said))


@dataclass
class _Run:
    step: Step
    home: Path
    log: IO[bytes]
    shown: Shown

    def run(self) -> None:
        command = ["vllm-judge", *self.step.command]
        self.log.write(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n".encode())
        program = [sys.executable, "-P", "-m", "vllm_judge.cli", *self.step.command]
        with subprocess.Popen(
            program,
            cwd=self.home,
            env=os.environ | {AS_LINES: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            process_group=0,  # so that an engine which a killed command leaves behind is found
        ) as process:
            try:
                record, failures = self._follow(_lines(process))
            except (
                BaseException
            ):  # Ctrl-C, or no room for the log: nobody reads on, so the command must not wait for it
                process.send_signal(signal.SIGINT)
                assert process.stdout is not None
                process.stdout.close()
                process.wait()
                raise
            finally:
                if process.poll() is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        self.step.keep(record)
        if process.returncode not in (0, PromiseError.exit_code):
            why = "\n".join(failures) or self._ended(process.returncode)
            raise JudgeError(
                f"{self.step.name}: {why} Nothing that was made is lost: the same command goes on from there. "
                f"All that was said is in {self.log.name}."
            )
        for line in failures:
            self.shown.words(line)
        self.step.keep(
            record.model_copy(
                update={"finished": True, "said": "\n".join(failures), "made": fingerprint(self.step.output)}
            )
        )

    def _ended(self, code: int) -> str:
        how = "was killed, as for want of memory" if code < 0 else f"ended with exit code {code}"
        return f"`vllm-judge {self.step.called}` {how}."

    def _follow(self, output: Iterator[bytes]) -> tuple[Record, list[str]]:
        """Passes on what a command says until it ends, and keeps how far it is; the record, and what failed."""
        record = self.step.record().model_copy(update={"finished": False})
        start = kept = begun = time.monotonic()
        before, first, title, failures = record.seconds, 0, None, list[str]()
        for raw in output:
            line = raw.decode(errors="replace")
            now = time.monotonic()
            record.seconds = before + now - start
            if not line.startswith(EVENT):
                self.log.write(raw + b"\n")
                self.shown.words(line)
                continue
            event = json.loads(line.removeprefix(EVENT))
            if "failed" in event:
                failures.append(event["failed"])
            elif "warned" in event:
                self.shown.words(f"warning: {event['warned']}")
            else:
                self.shown.progress(event["title"], event["total"], event["done"])
                if event["total"] > 1:  # the start of an engine is no pace of what it does
                    if title != event["title"]:
                        title, begun, first = event["title"], now, event["done"]
                    record.done, record.total = event["done"], event["total"]
                    record.timed, record.timed_seconds = event["done"] - first, now - begun
                if now - kept > KEPT_EVERY:
                    kept = now
                    self.step.keep(record)
        record.seconds = before + time.monotonic() - start
        return record, failures


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process says, line by line, until it has ended: what it left behind may hold its output open for ever."""
    assert process.stdout is not None
    rest = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], POLL_SECONDS)
        said = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not said and (ready or process.poll() is not None):
            break
        *whole, rest = (rest + said).split(b"\n")
        yield from whole
    if rest:
        yield rest
    process.wait()
