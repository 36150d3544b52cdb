"""Serves the embedded models with `vllm serve` three ways at once, solves problems over HTTP, and says what came out.

One burst of noise on a shared machine would spoil a comparison of one run after another. So all servers are up while
the problems are solved in rounds: in each, every server solves the same problems, in another order than the round
before. Speeds are medians over the rounds, and their ratios are taken within a round.
"""

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from openai import APIError, AsyncOpenAI
from rich.table import Table
from vllm_server import MODEL, Server, ServerError

from vllm_judge.benchmarks.offline import last_lines
from vllm_judge.cli.screen import console
from vllm_judge.demo import trio
from vllm_judge.demo.outcome import Outcome
from vllm_judge.demo.world import Problem, problems
from vllm_judge.measuring.provenance import about
from vllm_judge.measuring.statistics import accuracy, paired_difference

WARM_UP_PROBLEMS = 8
ROUNDS = 8
# vLLM's processes go on looking for work for about a second after they had some, on a core that the next one needs.
REST_SECONDS = 1.5
PLAIN, STRICT, JUDGE = "plain", "strict", "judge"
# Strict verification's best of 1, 2, 4, 8 and 16 drafts on this pair (docs/measurements/bench_offline_cpu.json).
STRICT_DRAFTS = 4
Rounds = Mapping[str, Sequence[Outcome]]


async def solve(server: Server, asked: Sequence[Problem], concurrency: int) -> Outcome:
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

        before = server.counters()
        start = time.perf_counter()
        replies = await asyncio.gather(*map(answer, asked))
        seconds = time.perf_counter() - start
    texts, tokens = zip(*replies, strict=True)
    return Outcome.of(asked, texts, sum(tokens), seconds, before, server.counters())


def solve_in_rounds(servers: Mapping[str, Server], asked: Sequence[Problem], concurrency: int) -> Rounds:
    """Every server's outcome of every round, after a warm-up.

    Raises:
        ServerError: a request failed.
    """
    rounds: dict[str, list[Outcome]] = {mode: [] for mode in servers}
    modes = list(servers)
    for number in range(-1, ROUNDS):
        group = asked[number::ROUNDS] if number >= 0 else asked[:WARM_UP_PROBLEMS]
        for mode in modes:
            time.sleep(REST_SECONDS)
            try:
                outcome = asyncio.run(solve(servers[mode], group, concurrency))
            except (APIError, httpx.HTTPError) as error:
                raise ServerError(f"a request failed: {error}\n{last_lines(servers[mode].log)}") from error
            if number >= 0:
                rounds[mode].append(outcome)
        modes = [*modes[1:], modes[0]]
    return rounds


def spread(values: Sequence[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(rounds: Rounds) -> Table:
    """A line a server."""
    shown = Table(
        *("", "tokens/s", "problems/s", "accepted\n/cycle", "judge\nonly", "accuracy, %"), box=None, header_style="bold"
    )
    for mode, outcomes in rounds.items():
        total = Outcome.total(outcomes)
        right = accuracy(total.correct)
        shown.add_row(
            mode,
            spread([one.tokens_per_s for one in outcomes], ".0f"),
            spread([one.problems_per_s for one in outcomes], ".1f"),
            f"{total.accepted_per_cycle:.2f}" if total.cycles else "",
            f"{total.judge_only_share:.1%}" if total.cycles else "",
            f"{100 * right.value:.1f} [{100 * right.low:.1f}, {100 * right.high:.1f}]",
        )
    return shown


def ratios(rounds: Rounds, speed: str, other: str) -> list[float]:
    """The judge's speed by another server's, round by round."""
    pairs = zip(rounds[JUDGE], rounds[other], strict=True)
    return [getattr(judged, speed) / getattr(theirs, speed) for judged, theirs in pairs]


def in_words(rounds: Rounds) -> str:
    """What was gained, what it cost, and what to try next."""
    totals = {mode: Outcome.total(outcomes) for mode, outcomes in rounds.items()}
    cost = paired_difference(totals[JUDGE].correct, totals[PLAIN].correct)
    gained = [
        f"{spread(ratios(rounds, 'tokens_per_s', other), '.2f')} times the tokens per second and "
        f"{spread(ratios(rounds, 'problems_per_s', other), '.2f')} times the problems per second of {what}"
        for other, what in ((PLAIN, "the plain server"), (STRICT, f"strict verification with {STRICT_DRAFTS} drafts"))
    ]
    return (
        f"Gained: judge decoding gave {', and '.join(gained)} (medians over {ROUNDS} rounds, and their range; its "
        "answers are longer, since it keeps the draft's words).\n"
        f"Cost: on these {len(totals[JUDGE].correct)} problems its accuracy is {100 * cost.value:+.1f} points from the "
        f"target's own (95%: {100 * cost.low:+.1f} to {100 * cost.high:+.1f}). These are toys; only your own pair can "
        "tell what it gains and costs you.\n"
        "Next: .venv/bin/vllm-judge demo -n 1000 says it with narrow intervals, for both judge heads."
    )


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """As JSON has them: counts of all rounds, speeds as medians over the rounds, and every round's."""
    speeds = {name: [getattr(one, name) for one in outcomes] for name in ("tokens_per_s", "problems_per_s")}
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return Outcome.total(outcomes).figures() | medians | {"rounds": speeds}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=64, help=f"number of problems, at least {ROUNDS} (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="which problems (default: 0)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests in flight (default: 1)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    if arguments.n < ROUNDS:
        parser.error(f"-n must be at least {ROUNDS}, one problem a round, found {arguments.n}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    asked = problems(arguments.n, arguments.seed, "test")
    strict = json.dumps(trio.strict_config(STRICT_DRAFTS))
    configs = {PLAIN: None, STRICT: strict, JUDGE: str(trio.JUDGE_JSON)}
    out = console()
    with contextlib.ExitStack() as stack:
        starting = {}
        for mode, speculative_config in configs.items():
            option = f" --speculative-config {shlex.quote(speculative_config)}" if speculative_config else ""
            out.print(f"[bold]{mode}[/]: vllm serve {trio.TARGET}{option}", soft_wrap=True)
            starting[mode] = Server(speculative_config)
            stack.push(starting[mode])
        servers = {mode: server.__enter__() for mode, server in starting.items()}
        out.print(f"All three are up; {arguments.n} problems in {ROUNDS} rounds, {arguments.concurrency} at a time.")
        rounds = solve_in_rounds(servers, asked, arguments.concurrency)
    out.print(table(rounds))
    out.print(
        "Speeds: medians over the rounds, and their range. accepted/cycle: draft tokens accepted per target "
        "verification, the target's own not counted. judge only: share of them that strict verification would have "
        "rejected. Accuracy with 95% intervals.\n"
    )
    out.print(in_words(rounds))
    if arguments.json:
        settings = {"n": arguments.n, "seed": arguments.seed, "concurrency": arguments.concurrency, "rounds": ROUNDS}
        found = {mode: figures(outcomes) for mode, outcomes in rounds.items()}
        arguments.json.write_text(json.dumps(about(settings) | found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ServerError as error:
        sys.exit(f"quickstart: {error}")
