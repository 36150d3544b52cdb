"""`vllm-judge train`: hidden states of labelled answers, and the head that is fitted on them."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.tokencourt.commands import ChatTemplate, CourtFile, json_object, one_sentence
from vllm_judge.tokencourt.errors import CourtError
from vllm_judge.tokencourt.questions import HELD_OUT
from vllm_judge.training.choices import Dtype, Features, SourceName, Store

app = typer.Typer(no_args_is_help=True)

Thresholds = Annotated[list[float], typer.Option(min=0.0, max=1.0, help="Threshold to try; may be repeated.")]


@app.callback()
def train() -> None:
    """Heads: the target's hidden states of labelled answers, and the fit on them."""


@app.command("hidden-states")
@one_sentence
def hidden_states(
    file: CourtFile,
    target: Annotated[str, typer.Option(help="Folder or repository of the target that will be served.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the hidden states.")],
    source: Annotated[SourceName, typer.Option(help="What computes them.")] = SourceName.vllm,
    dtype: Annotated[Dtype, typer.Option(help="What the target computes in.")] = Dtype.auto,
    store: Annotated[Store, typer.Option(help="What they are stored in.")] = Store.float32,
    engine: Annotated[
        str, typer.Option(help="Options of vLLM's LLM as JSON, such as '{\"tensor_parallel_size\": 4}'.")
    ] = "{}",
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
    if options and source != SourceName.vllm:
        raise CourtError("--engine is for --source vllm only.")
    index = extract(
        file,
        target,
        output,
        lambda: open_source(source, target, dtype, options),
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
    typer.echo(f"{tokens} labelled tokens of {answers} answers in {output}.")
    for reason, ids in index.left_out.items():
        shown = ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")
        typer.echo(f"  {len(ids)} answers left out, {reason}: {shown}")


@app.command()
@one_sentence
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
    from rich.console import Console

    from vllm_judge.training.heads import fit_folder
    from vllm_judge.training.report import ablation_table, rates_table, write_head

    if len(features) != len(output):
        raise CourtError(f"give one --features for each --output: found {len(features)} and {len(output)}.")
    fitted = fit_folder(folder, features, balance_positions)
    console = Console()
    console.print(ablation_table(fitted[0]))
    for path, one in zip(output, fitted, strict=True):
        head = write_head(path, one, false_accepts)
        console.print(rates_table(one))
        typer.echo(f"{path}: a head that reads {one.features}, default threshold {head.threshold:g}.")
        for warning in one.warnings:
            typer.echo(f"vllm-judge: warning: {warning}", err=True)


@one_sentence
def calibrate(
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS", help="Questions, as `court questions` writes them; held-out ones count."),
    ],
    target: Annotated[str, typer.Option(help="Folder or repository of the target.")],
    draft: Annotated[str, typer.Option(help="Folder or repository of the draft model.")],
    head: Annotated[
        list[Path],
        typer.Option(exists=True, file_okay=False, help="Folder of a judge head; several are measured side by side."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the answers.")],
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0.0, help="Percentage points below strict verification, at the 95% interval's end.")
    ] = 1.0,
    threshold: Thresholds = [0.3, 0.5, 0.7, 0.9, 0.97],  # noqa: B006
    num_speculative_tokens: Annotated[int, typer.Option(min=1, help="Draft tokens per cycle.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask so many held-out questions at most.")] = None,
    chat_template: ChatTemplate = None,
) -> None:
    """Picks heads' thresholds by a promise, with judged decoding of held-out questions; goes on where it stopped."""
    from rich.console import Console
    from rich.progress import track

    from vllm_judge.evaluation.compare import BASELINE
    from vllm_judge.evaluation.pair import Pair, PairError, Sampling, default_dtype
    from vllm_judge.evaluation.points import table, with_front
    from vllm_judge.evaluation.questions import held_out_questions
    from vllm_judge.head import HeadError
    from vllm_judge.training.calibrate import (
        choose_threshold,
        measure_thresholds,
        write_threshold,
    )
    from vllm_judge.training.errors import TrainingError

    try:
        pair = Pair.load(target, draft, default_dtype())
        heads = {str(folder): pair.load_head(str(folder)) for folder in head}
    except (HeadError, OSError, PairError) as error:
        raise CourtError(str(error)) from None
    template = chat_template.read() if chat_template else None
    asked = held_out_questions(questions, pair.tokenizer, template)[:limit]
    how = Sampling(num_speculative_tokens, max_new_tokens)
    contenders, points = measure_thresholds(
        pair,
        heads,
        asked,
        threshold,
        how,
        output,
        lambda these: track(these, "questions", console=Console(stderr=True)),
    )
    Console().print(table(contenders, points))
    about = {"target": target, "draft": draft, **vars(how)}
    refusals = []
    for folder, judge in heads.items():
        own = with_front([point for point in points if point.rule in (BASELINE, folder)])
        try:
            chosen = choose_threshold(own, max_accuracy_drop)
        except TrainingError as error:
            refusals.append(f"{folder}: {error}")
            continue
        calibrated = write_threshold(Path(folder), judge.cpu(), own, chosen, max_accuracy_drop, about)
        typer.echo(calibrated.provenance["calibration"]["promise"])
        typer.echo(f"{folder}: the default threshold is {calibrated.threshold:g} now.")
    if refusals:
        raise TrainingError("\n".join(refusals))
