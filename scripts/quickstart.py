"""Serves the embedded models with `vllm serve` three ways, solves problems over HTTP, and prints one table."""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import torch
from openai import APIError, AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from vllm_judge.demo import trio
from vllm_judge.demo.engine import engine_environment, last_lines
from vllm_judge.demo.outcome import COUNTERS, Outcome
from vllm_judge.demo.report import DEFINITIONS, table
from vllm_judge.demo.world import Problem, problems

START_SECONDS = 240
STOP_SECONDS = 20
WARM_UP_PROBLEMS = 2
MODEL = "demo"


class ServerError(RuntimeError):
    """A server that did not come up or died; the message ends with the last lines of its log."""


class Server:
    """A context manager around one `vllm serve` on a free port of this machine."""

    def __init__(self, speculative_config: str | None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(tempfile.mkstemp(prefix="vllm-serve-", suffix=".log")[1])
        command = [str(Path(sys.executable).with_name("vllm")), "serve", str(trio.TARGET)]
        command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "float32", "--max-model-len", str(trio.MAX_MODEL_LEN)]
        command += [] if torch.cuda.is_available() else ["--enforce-eager"]  # compiling takes longer than this demo
        command += ["--speculative-config", speculative_config] if speculative_config else []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=engine_environment(), stdout=log, stderr=log, start_new_session=True
            )

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

    def counters(self) -> dict[str, int]:
        """The speculative counters (keys of COUNTERS); 0 where the server has none."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").raise_for_status().text)
        totals = {sample.name: sample.value for family in families for sample in family.samples}
        return {name: int(totals.get(f"{counter}_total", 0)) for name, counter in COUNTERS.items()}

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"vllm serve stopped (exit code {self._process.returncode}):\n{last_lines(self.log)}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.5)
        raise ServerError(f"vllm serve was not ready after {START_SECONDS} s:\n{last_lines(self.log)}")


async def solve(server: Server, asked: list[Problem], concurrency: int) -> Outcome:
    """Solves the problems greedily over HTTP, `concurrency` of them at a time; timed as the client sees it."""
    gate = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def answer(problem: Problem) -> tuple[str, int]:
            async with gate:
                reply = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": problem.question}],
                    temperature=0.0,
                    max_tokens=trio.MAX_NEW_TOKENS,
                )
            assert reply.usage is not None  # vLLM counts in every reply
            return reply.choices[0].message.content or "", reply.usage.completion_tokens

        for problem in asked[:WARM_UP_PROBLEMS]:
            await answer(problem)
        before = server.counters()
        start = time.perf_counter()
        replies = await asyncio.gather(*map(answer, asked))
        seconds = time.perf_counter() - start
    texts, tokens = zip(*replies, strict=True)
    return Outcome.of(asked, texts, sum(tokens), seconds, before, server.counters())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=64, help="number of problems (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="which problems (default: 0)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests in flight (default: 1)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a server is stopped then, too
    asked = problems(arguments.n, arguments.seed, "test")
    configs = {"plain": None, "strict": json.dumps(trio.strict_config()), "judge": str(trio.JUDGE_JSON)}
    outcomes: dict[str, Outcome] = {}
    console = Console()
    for mode, speculative_config in configs.items():
        option = f" --speculative-config {shlex.quote(speculative_config)}" if speculative_config else ""
        console.print(f"[bold]{mode}[/]: vllm serve {trio.TARGET}{option}", soft_wrap=True, highlight=False)
        with Server(speculative_config) as server:
            try:
                outcomes[mode] = asyncio.run(solve(server, asked, arguments.concurrency))
            except (APIError, httpx.HTTPError) as error:
                raise ServerError(f"a request failed: {error}\n{last_lines(server.log)}") from error
    console.print(table(outcomes, "plain"))
    console.print(f"n = {arguments.n} problems, greedy, {arguments.concurrency} at a time. {DEFINITIONS}")
    if arguments.json:
        figures = {mode: outcome.figures() for mode, outcome in outcomes.items()}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        sys.exit(f"quickstart: {error}")
