"""The command `vllm-judge project`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_judge.cli.options import JsonPath
from vllm_judge.cli.screen import console
from vllm_judge.errors import JudgeError

if TYPE_CHECKING:
    from vllm_judge.projection.projection import Acceptance

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
H100_RIDGE = 295.0  # tokens; 989e12 FLOP/s of dense bfloat16 by 3.35e12 bytes/s


def project(
    target_step: Annotated[float | None, typer.Option(min=0.001, help="The target's time for a token, in ms.")] = None,
    draft_step: Annotated[float | None, typer.Option(min=0.0, help="The draft model's, in ms.")] = None,
    results: Annotated[Path | None, typer.Option(exists=True, help="results.json of `vllm-judge compare`.")] = None,
    rule: Annotated[str | None, typer.Option(help="A rule of it: NAME, or NAME:parameter=value.")] = None,
    accepted: Annotated[float | None, typer.Option(min=0.0, help="Instead: mean drafts accepted per cycle, ")] = None,
    num_speculative_tokens: Annotated[int | None, typer.Option(min=1, help="of so many.")] = None,
    ridge: Annotated[float, typer.Option(min=1.0, help="Tokens in a pass from which on its time grows.")] = H100_RIDGE,
    overhead: Annotated[float, typer.Option(min=0.0, help="A cycle's time beside the models' passes, in ms.")] = 0.0,
    batch: Annotated[list[int], typer.Option(min=1, help="Requests at a time; can be repeated.")] = list(BATCHES),  # noqa: B006
    check: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Instead: how far projections are off this benchmark's runs."),
    ] = None,
    json_path: JsonPath = None,
) -> None:
    """Projects the speed-up over plain decoding on hardware of given step times: best M, break-even batch."""
    from vllm_judge.cli.tables import projection_table
    from vllm_judge.measuring.provenance import command
    from vllm_judge.projection.acceptance import read_acceptance
    from vllm_judge.projection.check import against_published, span
    from vllm_judge.projection.projection import Acceptance, Projection, StepTime, figures

    if check:
        if any(given is not None for given in (target_step, draft_step, accepted)):
            raise JudgeError("--check takes step times from the benchmark, and acceptance too unless --results.")
        if bool(results) != bool(rule):
            raise JudgeError("give --results and --rule, the judge's, together or neither of them.")
        acceptances = {}
        if results and rule:
            acceptances = {"strict": read_acceptance(results, "strict"), "judge": read_acceptance(results, rule)}
        _check(check, acceptances, json_path)
        return
    if target_step is None or draft_step is None:
        raise JudgeError("give --target-step and --draft-step, or --check with a benchmark.")
    if results and rule and accepted is None:
        acceptance = read_acceptance(results, rule)
        drafted = len(acceptance.survival)
    elif accepted is not None and num_speculative_tokens and not results:
        acceptance = Acceptance.from_mean(accepted, num_speculative_tokens)
        drafted = num_speculative_tokens
    else:
        raise JudgeError("give either --results and --rule, or --accepted and --num-speculative-tokens.")

    projection = Projection(acceptance, StepTime(target_step, ridge), StepTime(draft_step, ridge), overhead)
    found = figures(projection, drafted, batch)
    out = console()
    out.print("This is a projection, not a measurement.", style="bold")
    out.print(f"Acceptance: {acceptance.origin}.")
    out.print(
        f"Step times as given: target {target_step:g} ms, draft model {draft_step:g} ms for up to {ridge:g} tokens in "
        f"a pass, in proportion to them beyond; {overhead:g} ms a cycle for all else. Time for the key-value cache is "
        "not in the model."
    )
    out.print(
        f"Against published figures the formula was off by {span(against_published())}; `vllm-judge project --check` "
        "shows them, beside runs that were measured here. docs/projection.md has it all."
    )
    out.print(projection_table(found, drafted))
    out.print(_break_even(found["break_even_batch"], drafted))
    if found["batches"][0]["best_num_drafts"] == projection.longest:
        out.print(f"{projection.longest} drafts are the most there are figures for: more may be better still.")
    if json_path:
        json_path.write_text(json.dumps({**found, "command": command()}, indent=2) + "\n", encoding="utf-8")


def _check(benchmark: Path, acceptances: "dict[str, Acceptance]", json_path: Path | None) -> None:
    """Prints how far projections are off, and writes it."""
    from pydantic import ValidationError

    from vllm_judge.benchmarks.engines import BenchmarkFile
    from vllm_judge.cli.tables import projection_check_table
    from vllm_judge.measuring.provenance import command
    from vllm_judge.projection.check import against_benchmark, against_published, span, step_times

    try:
        measured = BenchmarkFile.model_validate_json(benchmark.read_text(encoding="utf-8"))
    except ValidationError:
        raise JudgeError(f"{benchmark} is not what scripts/bench_offline.py --json writes.") from None
    published, ours = against_published(), against_benchmark(measured.runs, acceptances)
    times = step_times(measured.runs)
    said = "; ".join(one.origin for one in acceptances.values()) or "each mode's mean with the most drafts"
    out = console()
    out.print(projection_check_table([*published, *ours]))
    for one in times:
        out.print(
            f"Batch {one.batch}: a target step takes {one.target_ms:.2f} ms, a draft token {one.draft_ms:.2f} ms, the "
            f"rest of a cycle {one.overhead_ms:.2f} ms."
        )
    out.print(f"Acceptance: {said}.")
    out.print(f"Errors: {span(published)} against published figures, {span(ours)} against these runs.")
    if json_path:
        figures = {
            "settings": {"benchmark": benchmark.name} | measured.settings | {"acceptance": said},
            "machine": measured.machine,
            "command": command(),
            "step_times": [asdict(one) for one in times],
            "checks": [one.figures() for one in (*published, *ours)],
        }
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _break_even(batch: int | None, drafted: int) -> str:
    if batch is None:
        return f"{drafted} drafts per cycle pay at every batch size."
    if batch == 0:
        return f"{drafted} drafts per cycle do not pay even for one request."
    return f"{drafted} drafts per cycle pay up to {batch} requests at a time (break-even)."
