"""`vllm-judge train`: hidden states of labelled answers, and the head that is fitted on them."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import ChatTemplate, EngineOptions, example, json_object
from vllm_judge.cli.screen import console, say, warn
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.choices import HELD_OUT
from vllm_judge.training.choices import Dtype, Features, SourceName, Store

app = typer.Typer(no_args_is_help=True)


@app.callback()
def train() -> None:
    """Heads: the target's hidden states of labelled answers, and the fit on them."""


@app.command("hidden-states", epilog=example("train hidden-states labelled.jsonl --target T -o states"))
def hidden_states(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="A court.jsonl; several are taken together.")],
    target: Annotated[str, typer.Option(help="Folder or repository of the target that will be served.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the hidden states.")],
    source: Annotated[SourceName, typer.Option(help="What computes them.")] = SourceName.vllm,
    dtype: Annotated[Dtype, typer.Option(help="What the target computes in.")] = Dtype.auto,
    store: Annotated[Store, typer.Option(help="What they are stored in.")] = Store.float32,
    engine: EngineOptions = "{}",
    url: Annotated[
        str | None,
        typer.Option(help="Instead of an engine in this process: a server of the target, --runner pooling."),
    ] = None,
    chat_template: ChatTemplate = None,
    wrong_after_mistake: Annotated[
        bool, typer.Option("--wrong-after-mistake", help="Take tokens after a mistake for wrong, not for no example.")
    ] = False,
    held_out: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of questions held out, as `court questions` was told.")
    ] = HELD_OUT,
) -> None:
    """Computes the target's hidden states of all labelled tokens; run again, it goes on where it stopped."""
    from vllm_judge.tokencourt.masks import AfterMistake
    from vllm_judge.training.hidden_states import extract
    from vllm_judge.training.sources import open_source

    options = json_object(engine, "--engine")
    if (options or url) and source != SourceName.vllm:
        raise JudgeError("--engine and --url are for --source vllm only.")
    if options and url:
        raise JudgeError("--engine is for an engine in this process: leave it out, or --url.")
    index = extract(
        files,
        target,
        output,
        lambda: open_source(source, target, dtype, options, url),
        source=source,
        dtype=dtype,
        store=store,
        max_length=options.get("max_model_len"),
        chat_template=chat_template.read() if chat_template else None,
        after=AfterMistake.wrong if wrong_after_mistake else AfterMistake.ignored,
        held_out=held_out,
    )
    answers = sum(len(shard.answers) for shard in index.shards)
    tokens = sum(shard.tokens for shard in index.shards)
    say(f"{tokens} labelled tokens of {answers} answers in {output}.")
    for reason, ids in index.left_out.items():
        shown = ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")
        say(f"  {len(ids)} answers left out, {reason}: {shown}")


@app.command(epilog=example("train fit states -o my-judge"))
def fit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Hidden states, as `train hidden-states` writes them.")],
    output: Annotated[
        list[Path],
        typer.Option("--output", "-o", file_okay=False, help="Folder for the head; again for another one."),
    ],
    features: Annotated[
        list[Features], typer.Option(help="What the head reads; for several heads, in the order of their folders.")
    ] = [Features.both],  # noqa: B006
    balance_positions: Annotated[
        bool, typer.Option("--balance-positions", help="Weigh tokens so that their position tells nothing.")
    ] = False,
    false_accepts: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of mistakes that the default threshold may accept.")
    ] = 0.01,
) -> None:
    """Fits judge heads, and prints what hidden states, evidence and position are each worth."""

    from vllm_judge.cli.tables import ablation_table, rates_table
    from vllm_judge.training.fit import fit_folder
    from vllm_judge.training.head_folder import write_head

    if len(features) != len(output):
        raise JudgeError(f"give one --features for each --output: found {len(features)} and {len(output)}.")
    fitted = fit_folder(folder, features, balance_positions)
    out = console()
    out.print(ablation_table(fitted[0]))
    for path, one in zip(output, fitted, strict=True):
        head = write_head(path, one, false_accepts)
        out.print(rates_table(one))
        say(f"{path}: a head that reads {one.features}, default threshold {head.threshold:g}.")
        for warning in one.warnings:
            warn(warning)
