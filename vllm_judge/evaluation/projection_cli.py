"""The command `vllm-judge project`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vllm_judge.evaluation.projection import Acceptance, Projection

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
H100_RIDGE = 295.0  # tokens; 989e12 FLOP/s of dense bfloat16 by 3.35e12 bytes/s


def project(
    target_step: Annotated[float, typer.Option(min=0.001, help="The target's time for one token, in ms.")],
    draft_step: Annotated[float, typer.Option(min=0.0, help="The draft model's time for one token, in ms.")],
    results: Annotated[Path | None, typer.Option(exists=True, help="results.json of `vllm-judge compare`.")] = None,
    rule: Annotated[str | None, typer.Option(help="A rule of it: NAME, or NAME:parameter=value.")] = None,
    accepted: Annotated[float | None, typer.Option(min=0.0, help="Instead: mean drafts accepted per cycle, ")] = None,
    num_speculative_tokens: Annotated[int | None, typer.Option(min=1, help="of so many.")] = None,
    ridge: Annotated[float, typer.Option(min=1.0, help="Tokens in a pass from which on its time grows.")] = H100_RIDGE,
    overhead: Annotated[float, typer.Option(min=0.0, help="A cycle's time beside the models' passes, in ms.")] = 0.0,
    batch: Annotated[list[int], typer.Option(min=1, help="Requests at a time; can be repeated.")] = list(BATCHES),  # noqa: B006
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures there too.")] = None,
) -> None:
    """Projects the speed-up over plain decoding on hardware of given step times: best M, break-even batch."""
    from vllm_judge.evaluation.projection import Acceptance, Projection, ProjectionError, StepTime

    try:
        if results and rule and accepted is None:
            acceptance = read_acceptance(results, rule)
            drafted = len(acceptance.survival)
        elif accepted is not None and num_speculative_tokens and not results:
            acceptance = Acceptance.from_mean(accepted, num_speculative_tokens)
            drafted = num_speculative_tokens
        else:
            raise ProjectionError("give either --results and --rule, or --accepted and --num-speculative-tokens.")
    except ProjectionError as error:
        typer.echo(f"vllm-judge: {error}", err=True)
        raise typer.Exit(1) from None

    projection = Projection(acceptance, StepTime(target_step, ridge), StepTime(draft_step, ridge), overhead)
    figures = _figures(projection, drafted, batch)
    console = Console(highlight=False)
    console.print("This is a projection, not a measurement.", style="bold")
    console.print(f"Acceptance: {acceptance.origin}.")
    console.print(
        f"Step times as given: target {target_step:g} ms, draft model {draft_step:g} ms for up to {ridge:g} tokens in "
        f"a pass, in proportion to them beyond; {overhead:g} ms a cycle for all else. Time for the key-value cache is "
        "not in the model. docs/projection.md has the formula and how far it was off."
    )
    console.print(_table(figures, drafted))
    console.print(_break_even(figures["break_even_batch"], drafted))
    if figures["batches"][0]["best_num_drafts"] == projection.longest:
        console.print(f"{projection.longest} drafts are the most there are figures for: more may be better still.")
    if json_path:
        figures["command"] = shlex.join(["vllm-judge", *sys.argv[1:]])
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def read_acceptance(results: Path, rule: str) -> "Acceptance":
    """The acceptance of one rule and setting of a results.json.

    Raises:
        ProjectionError: the file is another one, or not exactly one point of it is meant.
    """
    from vllm_judge.evaluation.projection import Acceptance, ProjectionError

    try:
        points = json.loads(results.read_text(encoding="utf-8"))["points"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ProjectionError(f"{results} is no results.json of `vllm-judge compare`.") from error
    found = {_name(point): point for point in points if rule in (point["rule"], _name(point))}
    if len(found) != 1:
        among = ", ".join(found or {_name(point): point for point in points})
        raise ProjectionError(f"{rule!r} is not one setting of one rule in {results}: choose from {among}.")
    [(name, point)] = found.items()
    return Acceptance.measured(
        point["accepted_counts"], f"{name}, measured on {point['n']} prompts, {sum(point['accepted_counts'])} cycles"
    )


def _name(point: dict) -> str:
    setting = ",".join(f"{key}={value:g}" for key, value in point["setting"].items())
    return f"{point['rule']}:{setting}" if setting else point["rule"]


def _figures(projection: "Projection", drafted: int, batches: list[int]) -> dict:
    best = [projection.best_num_drafts(size) for size in batches]
    return {
        "projection": True,
        "acceptance": projection.acceptance.origin,
        "target_step_ms": projection.target.seconds,
        "draft_step_ms": projection.draft.seconds,
        "ridge_tokens": projection.target.ridge,
        "overhead_ms": projection.overhead,
        "num_drafts": drafted,
        "expected_accepted": projection.acceptance.expected(drafted),
        "break_even_batch": projection.break_even_batch(drafted),
        "batches": [
            {
                "batch": size,
                "speed_up": projection.speed_up(drafted, size),
                "best_num_drafts": most,
                "best_speed_up": projection.speed_up(most, size),
            }
            for size, most in zip(batches, best, strict=True)
        ],
    }


def _table(figures: dict, drafted: int) -> Table:
    shown = Table(
        "requests\nat a time", f"speed-up,\n{drafted} drafts", "best\ndrafts", "speed-up\nwith these", box=SIMPLE
    )
    for row in figures["batches"]:
        shown.add_row(
            str(row["batch"]), f"{row['speed_up']:.2f}", str(row["best_num_drafts"]), f"{row['best_speed_up']:.2f}"
        )
    return shown


def _break_even(batch: int | None, drafted: int) -> str:
    if batch is None:
        return f"{drafted} drafts per cycle pay at every batch size."
    if batch == 0:
        return f"{drafted} drafts per cycle do not pay even for one request."
    return f"{drafted} drafts per cycle pay up to {batch} requests at a time (break-even)."
