"""Times the embedded models through `vllm.LLM`: plain, strict and judged, over draft lengths and batch sizes.

Every configuration is measured in each repetition, in turn, in an engine of its own, so that a change of the machine's
speed meets all of them; figures are medians over the repetitions. What judging itself costs is measured apart: a judge
that scores every token and accepts none against vLLM's own strict verification, both engines up, in alternating rounds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vllm_judge.demo import trio
from vllm_judge.demo.engine import Engine
from vllm_judge.demo.outcome import Outcome
from vllm_judge.demo.world import problems
from vllm_judge.errors import JudgeError
from vllm_judge.measuring.provenance import about

STRICT_TOKENS = (1, 2, 4, 8, 16)
JUDGE_TOKENS = (4, 8, 16)
BATCHES = (1, 8)
ROUNDS = 8  # of the two that differ by a few per cent; even, so that each goes first equally often
# Below 1, so that the head is computed; its log-odds of 37 are beyond any score.
NEVER = 1.0 - 2.0**-53


@dataclass(frozen=True)
class Configuration:
    mode: str
    num_speculative_tokens: int
    speculative_config: dict[str, Any] | None


def configurations() -> Iterator[Configuration]:
    yield Configuration("plain", 0, None)
    for m in STRICT_TOKENS:
        yield Configuration("strict", m, trio.strict_config(m))
    for m in JUDGE_TOKENS:
        yield Configuration("judge", m, trio.judge_config(m))


def measure(n: int, seed: int, repetitions: int, console: Console) -> dict[tuple[str, int, int], list[Outcome]]:
    """Outcomes of every repetition by (mode, draft tokens, batch)."""
    asked = problems(n, seed, "test")
    outcomes: dict[tuple[str, int, int], list[Outcome]] = {}
    for repetition in range(repetitions):
        for configuration in configurations():
            mode, m = configuration.mode, configuration.num_speculative_tokens
            console.print(f"repetition {repetition + 1} of {repetitions}: {mode} {m or ''}", highlight=False)
            with Engine(configuration.speculative_config, max(BATCHES)) as engine:
                for batch in BATCHES:
                    outcomes.setdefault((mode, m, batch), []).append(engine.solve(asked, one_by_one=batch == 1))
    return outcomes


def reject_all(n: int, seed: int, console: Console) -> list[dict[str, Any]]:
    """For each batch size: tokens/s of a judge that accepts nothing over strict verification's, round by round."""
    asked = problems(n, seed, "test")
    m = max(STRICT_TOKENS)
    found = []
    with (
        Engine(trio.strict_config(m), max(BATCHES)) as strict,
        Engine(trio.judge_config(m, threshold=NEVER), max(BATCHES)) as rejecting,
    ):
        for batch in BATCHES:
            console.print(f"a judge that accepts nothing, batch {batch}: {ROUNDS} rounds", highlight=False)
            rounds = []
            for number in range(ROUNDS):
                engines = [strict, rejecting] if number % 2 else [rejecting, strict]
                speed = {one: one.solve(asked, batch == 1).figures()["tokens_per_s"] for one in engines}
                rounds.append(speed[rejecting] / speed[strict])
            found.append({"batch": batch, "median": statistics.median(rounds), "rounds": sorted(rounds)})
    return found


def medians(outcomes: list[Outcome]) -> dict[str, float]:
    figures = [outcome.figures() for outcome in outcomes]
    return {name: statistics.median(one[name] for one in figures) for name in figures[0]}


def ratios(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each batch size: judged decoding over the alternatives."""
    found = []
    for batch in BATCHES:
        speed = {(r["mode"], r["num_speculative_tokens"]): r["tokens_per_s"] for r in runs if r["batch"] == batch}
        most = max(STRICT_TOKENS)
        best_strict = max(speed["strict", m] for m in STRICT_TOKENS)
        best_judge = max(speed["judge", m] for m in JUDGE_TOKENS)
        found.append(
            {
                "batch": batch,
                "best judge / plain": best_judge / speed["plain", 0],
                "best judge / best strict": best_judge / best_strict,
                f"judge {most} / strict {most}": speed["judge", most] / speed["strict", most],
            }
        )
    return found


def table(runs: list[dict[str, Any]]) -> Table:
    shown = Table("mode", "drafts", "batch", "tokens/s", "problems/s", "accepted/cycle", "judge-only", "accuracy")
    for run in runs:
        shown.add_row(
            run["mode"],
            str(run["num_speculative_tokens"]),
            str(run["batch"]),
            f"{run['tokens_per_s']:.0f}",
            f"{run['problems_per_s']:.2f}",
            f"{run['accepted_per_cycle']:.2f}",
            f"{run['judge_only_share']:.1%}",
            f"{run['accuracy']:.1%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=32, help="problems in each timed run (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="which problems (default: 0)")
    parser.add_argument("--repetitions", type=int, default=3, help="(default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    console = Console()
    judging = reject_all(arguments.n, arguments.seed, console)
    outcomes = measure(arguments.n, arguments.seed, arguments.repetitions, console)
    runs = [
        {"mode": mode, "num_speculative_tokens": m, "batch": batch} | medians(repeated)
        for (mode, m, batch), repeated in outcomes.items()
    ]
    found = ratios(runs)
    console.print(table(runs))
    for ratio in found:
        console.print(", ".join(f"{name}: {value:.3g}" for name, value in ratio.items()), highlight=False)
    console.print(f"Medians of {arguments.repetitions} repetitions, greedy, fp32.")
    for one in judging:
        low, high = one["rounds"][0], one["rounds"][-1]
        console.print(
            f"A judge that accepts nothing over strict verification, batch {one['batch']}: {one['median']:.3f}, "
            f"rounds {low:.3f} to {high:.3f}",
            highlight=False,
        )
    if arguments.json:
        settings = {"n": arguments.n, "seed": arguments.seed, "repetitions": arguments.repetitions}
        report = about(settings) | {"runs": runs, "ratios of tokens_per_s": found, "reject_all / strict": judging}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except JudgeError as error:
        sys.exit(f"bench_offline: {error}")
