"""Serves the embedded models with `vllm serve` three ways, solves problems over HTTP, and prints one table."""

import argparse
import asyncio
import json
import shlex
import signal
import sys
import time
from pathlib import Path

import httpx
from openai import APIError, AsyncOpenAI
from rich.console import Console
from vllm_server import MODEL, Server, ServerError

from vllm_judge.cli.tables import outcomes_table
from vllm_judge.demo import trio
from vllm_judge.demo.engine import last_lines
from vllm_judge.demo.outcome import DEFINITIONS, Outcome
from vllm_judge.demo.world import Problem, problems
from vllm_judge.measuring.provenance import about

WARM_UP_PROBLEMS = 2


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
    console.print(outcomes_table(outcomes, "plain"))
    console.print(f"n = {arguments.n} problems, greedy, {arguments.concurrency} at a time. {DEFINITIONS}")
    if arguments.json:
        figures = {mode: outcome.figures() for mode, outcome in outcomes.items()}
        settings = {"n": arguments.n, "seed": arguments.seed, "concurrency": arguments.concurrency}
        arguments.json.write_text(json.dumps(about(settings) | figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        sys.exit(f"quickstart: {error}")
