"""`vllm serve` as a context manager, for the scripts of this folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import torch
from prometheus_client.parser import text_string_to_metric_families

from vllm_judge.benchmarks.offline import COUNTERS, last_lines
from vllm_judge.demo import trio
from vllm_judge.demo.engine import engine_environment

START_SECONDS = {"demo": 240, "real": 3600}  # a real model is loaded from a disk, and compiled
STOP_SECONDS = 20
MODEL = "served"  # the name that every server gives its model


class ServerError(RuntimeError):
    """A server that did not come up or died; the message ends with the last lines of its log."""


def vllm_command(*arguments: str) -> list[str]:
    """A command line of the `vllm` that is installed beside this Python."""
    return [str(Path(sys.executable).with_name("vllm")), *arguments]


class Server:
    """A context manager around one `vllm serve` on a free port of this machine.

    Args:
        speculative_config: as `vllm serve` takes it; None: no speculation.
        target: folder or Hub repository of the model; None: the embedded one. An embedded one of either world gets the
            options and the environment that it needs.
        options: more options of `vllm serve`.

    Raises:
        ServerError: (on entering) the server did not come up.
    """

    def __init__(self, speculative_config: str | None, target: str | None = None, options: Sequence[str] = ()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(tempfile.mkstemp(prefix="vllm-serve-", suffix=".log")[1])
        is_embedded = target is None or Path(target).is_relative_to(trio.FOLDER)
        self._start_seconds = START_SECONDS["demo" if is_embedded else "real"]
        command = vllm_command("serve", target or str(trio.TARGET))
        command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(self.port)]
        command += [*(demo_options() if is_embedded else []), *options]
        command += ["--speculative-config", speculative_config] if speculative_config else []
        environment = engine_environment() if is_embedded else dict(os.environ)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> "Server":
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session: engine processes that outlived the server
        self._process.wait()
        self.log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def totals(self) -> Counter[str]:
        """All counters of /metrics, those of several engines added up."""
        totals: Counter[str] = Counter()
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics").raise_for_status().text):
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    totals[sample.name.removesuffix("_total")] += int(sample.value)
        return totals

    def counters(self) -> dict[str, int]:
        """The speculative counters (keys of COUNTERS); 0 where there are none."""
        totals = self.totals()
        return {name: totals[counter] for name, counter in COUNTERS.items()}

    def _wait(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"vllm serve stopped (exit code {self._process.returncode}):\n{last_lines(self.log)}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.5)
        raise ServerError(f"vllm serve was not ready after {self._start_seconds} s:\n{last_lines(self.log)}")


def demo_options() -> list[str]:
    """Options for the embedded target."""
    eager = [] if torch.cuda.is_available() else ["--enforce-eager"]  # compiling takes longer than the demo
    return ["--dtype", "float32", "--max-model-len", str(trio.MAX_MODEL_LEN), *eager]
