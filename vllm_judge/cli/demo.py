"""The command `vllm-judge demo`."""

from enum import StrEnum
from typing import Annotated

import typer

from vllm_judge.cli.options import JsonPath
from vllm_judge.cli.screen import console, say
from vllm_judge.demo.choices import World


class Head(StrEnum):
    """The trio's heads: `evidence` also reads the target's own distribution, `paper` the hidden state alone."""

    evidence = "evidence"
    paper = "paper"


def demo(
    n: Annotated[int, typer.Option("-n", min=1, help="Number of problems.")] = 200,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
    num_speculative_tokens: Annotated[
        int | None, typer.Option(min=1, help="Draft tokens per cycle; by default what judge.json says.")
    ] = None,
    head: Annotated[list[Head], typer.Option(help="Judge heads to run; may be repeated.")] = list(Head),  # noqa: B006
    world: Annotated[World, typer.Option(help="The demo's own, or one where fixed bars on p fail.")] = World.EASY,
    json_path: JsonPath = None,
    path: Annotated[bool, typer.Option("--path", help="Print the folder of the demo's models and stop.")] = False,
) -> None:
    """Solves word problems with the embedded models: target alone, strict verification, judge decoding."""
    from vllm_judge.demo import trio

    if path:
        say(str(trio.TRIOS[world].folder))
        return

    from vllm_judge.cli.tables import outcomes_table
    from vllm_judge.demo import run
    from vllm_judge.demo.outcome import DEFINITIONS, Outcome

    out = console()
    outcomes: dict[str, Outcome] = {}
    for name, outcome in run.measure(n, seed, [str(one) for one in head], num_speculative_tokens, world):
        outcomes[name] = outcome
        out.print(f"{name}: {n} problems in {outcome.seconds:.1f} s")
    out.print(outcomes_table(outcomes, run.PLAIN))
    drafted = trio.TRIOS[world].strict_config(num_speculative_tokens)["num_speculative_tokens"]
    out.print(f"n = {n} problems of the {world} world, greedy, {drafted} draft tokens per cycle. {DEFINITIONS}")
    if json_path:
        settings = {"world": world, "n": n, "seed": seed, "num_speculative_tokens": drafted}
        run.write_json(json_path, outcomes, settings)
