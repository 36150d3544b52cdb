"""The `vllm-judge` command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllm_judge.demo.world import World
from vllm_judge.evaluation.compare_cli import compare
from vllm_judge.evaluation.evaluate_cli import evaluate
from vllm_judge.evaluation.projection_cli import project
from vllm_judge.evaluation.replay_cli import replay
from vllm_judge.evaluation.report_cli import report
from vllm_judge.tokencourt.commands import court, label
from vllm_judge.training import commands as training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Head(StrEnum):
    """The trio's heads: `evidence` also reads the target's own distribution, `paper` the hidden state alone."""

    evidence = "evidence"
    paper = "paper"


@app.callback()
def commands() -> None:
    """Judge Decoding for vLLM."""


@app.command()
def demo(
    n: Annotated[int, typer.Option("-n", min=1, help="Number of problems.")] = 200,
    seed: Annotated[int, typer.Option(help="Which problems.")] = 0,
    num_speculative_tokens: Annotated[
        int | None, typer.Option(min=1, help="Draft tokens per cycle; by default what judge.json says.")
    ] = None,
    head: Annotated[list[Head], typer.Option(help="Judge heads to run; may be repeated.")] = list(Head),  # noqa: B006
    world: Annotated[World, typer.Option(help="The demo's own, or one where fixed bars on p fail.")] = World.EASY,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures there too.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the folder of the demo's models and stop.")] = False,
) -> None:
    """Solves word problems with the embedded models: target alone, strict verification, judge decoding."""
    from vllm_judge.demo import trio

    if path:
        typer.echo(trio.TRIOS[world].folder)
        return

    from vllm_judge.demo import run
    from vllm_judge.demo.engine import EngineError
    from vllm_judge.demo.outcome import Outcome
    from vllm_judge.demo.report import DEFINITIONS, table

    console = Console()
    heads = [str(one) for one in head]
    outcomes: dict[str, Outcome] = {}
    try:
        for name, outcome in run.measure(n, seed, heads, num_speculative_tokens, world):
            outcomes[name] = outcome
            console.print(f"{name}: {n} problems in {outcome.seconds:.1f} s", highlight=False)
    except EngineError as error:
        typer.echo(f"vllm-judge: {error}", err=True)
        raise typer.Exit(1) from None
    console.print(table(outcomes, run.PLAIN))
    drafted = trio.TRIOS[world].strict_config(num_speculative_tokens)["num_speculative_tokens"]
    console.print(f"n = {n} problems of the {world} world, greedy, {drafted} draft tokens per cycle. {DEFINITIONS}")
    if json_path:
        settings = {"world": world, "n": n, "seed": seed, "num_speculative_tokens": drafted}
        run.write_json(json_path, outcomes, settings)


app.command()(training.calibrate)
app.command()(compare)
app.command()(evaluate)
app.command()(project)
app.command()(replay)
app.command()(report)
app.add_typer(court.app, name="court")
app.add_typer(label.app, name="label")
app.add_typer(training.app, name="train")


def main() -> None:
    """The console script."""
    app()
