"""`vllm serve TARGET --speculative-config ...`, as a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from environments import CPU, KV_CACHE_BYTES, RUNNERS

START_SECONDS = 240


def serve(
    models: Path, speculative_config: str | None, log: Path, *arguments: str
) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(models / "target")]
    command += [] if speculative_config is None else ["--speculative-config", speculative_config]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--served-model-name", "tiny"]
    command += ["--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    environment = {**os.environ, **CPU, **RUNNERS["v1"]}
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, port


@contextlib.contextmanager
def serving(models: Path, speculative_config: str | None, log: Path, *arguments: str) -> Iterator[httpx.Client]:
    """A client of a server that answers."""
    process, port = serve(models, speculative_config, log, *arguments)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
            deadline = time.monotonic() + START_SECONDS
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
                try:
                    if http.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield http
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def counted(client: httpx.Client, name: str) -> float:
    """A counter of /metrics, summed over engines."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:spec_decode_num_{name}_total"))
