"""Numbers and expressions compared by math-verify, in a process of its own.

The library reads what a model wrote: powers of powers, thousands of digits. Its own time limits are signals, which only
a program's main thread can have and which wait for a long multiplication to end. Here a process that takes too long, or
too much memory, is lost alone, and the answer is unknown.
"""

import atexit
import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Verdict

WORKER = Path(__file__).with_name("mathematics_worker.py")
Reading = tuple[str | None, str | None]  # as a number, and as it stands


def compare(reference: Reading, found: Reading, numeric: bool) -> Verdict:
    """Whether what was found is the reference; unknown where one of them cannot be read, or not in time.

    Args:
        reference, found: LaTeX, read as a number and as it stands.
        numeric: whether nothing but numbers counts.

    Raises:
        JudgeError: math-verify is not installed.
    """
    return Verdict(_worker.ask([reference, found, numeric]) or Verdict.unknown)


class _Worker:
    """The process, started when it is first asked and again after it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def ask(self, question: object) -> str | None:
        """The reply, None where the process was lost."""
        with self._lock:
            if self._process is None:
                self._process = self._start()
            try:
                assert self._process.stdin and self._process.stdout
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
                if reply := self._process.stdout.readline():
                    return reply.strip()
            except BrokenPipeError:
                pass
            self.stop()
            return None

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        if importlib.util.find_spec("math_verify") is None:
            raise JudgeError("math-verify is not installed: pip install 'vllm-judge-decoding[court]'.")
        # By path and without its folder on the import path: the package would bring PyTorch along.
        command = [sys.executable, "-P", str(WORKER)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


_worker = _Worker()
