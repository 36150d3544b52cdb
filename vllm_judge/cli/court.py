"""`vllm-judge court`: questions, answers, and the check of the file that holds them."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import (
    Concurrency,
    CourtFile,
    EngineOptions,
    MaxTokens,
    Output,
    Questions,
    Retries,
    Timeout,
    example,
    json_object,
    report_failures,
)
from vllm_judge.cli.screen import say
from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.choices import HELD_OUT, Check

app = typer.Typer(no_args_is_help=True)


@app.callback()
def court() -> None:
    """Questions, answers, and the file that holds them."""


@app.command(
    epilog=example(
        "court questions gsm8k -o questions.jsonl",
        "court questions my.jsonl --reference-field answer --check number -o questions.jsonl",
    )
)
def questions(
    source: Annotated[str, typer.Argument(help="gsm8k, arc, alpaca; another dataset's name or folder; a JSONL file.")],
    output: Output,
    layout: Annotated[str | None, typer.Option(help="gsm8k, arc or alpaca: the layout of a copy of these.")] = None,
    question_field: Annotated[str, typer.Option(help="Field with the question, in other layouts.")] = "question",
    reference_field: Annotated[str | None, typer.Option(help="Field with the right final answer.")] = None,
    check: Annotated[Check | None, typer.Option(help="How final answers are compared with the reference.")] = None,
    config: Annotated[str | None, typer.Option(help="The dataset's configuration.")] = None,
    split: Annotated[str, typer.Option(help="The dataset's split to take questions from.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many questions at most.")] = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of questions held out.")] = HELD_OUT,
) -> None:
    """Writes questions with a fixed train/held-out split."""
    from itertools import islice

    from vllm_judge.demo import court as demo
    from vllm_judge.tokencourt import records
    from vllm_judge.tokencourt.choices import Split
    from vllm_judge.tokencourt.questions import KNOWN, make_questions, plain, rows_of

    known = KNOWN.get(layout or source)
    if layout and not known:
        raise JudgeError(f"--layout must be one of {', '.join(KNOWN)}, found {layout!r}.")
    if source in KNOWN:
        source, config = KNOWN[source].name, config or KNOWN[source].config
    name = Path(source).stem
    rows = demo.rows(config, split) if source == "demo" else rows_of(source, config, split)
    made = make_questions(
        rows, name, known.layout if known else plain(question_field, reference_field, check), held_out
    )
    kept = list(islice(made, limit))
    records.write(output, kept)
    count = sum(question.split == Split.held_out for question in kept)
    say(f"{len(kept)} questions in {output}: {len(kept) - count} to train on, {count} held out.")


@app.command(epilog=example("court answers questions.jsonl --model DRAFT --samples 4 -o court.jsonl"))
def answers(
    file: Questions,
    output: Output,
    model: Annotated[list[str], typer.Option(help="Who answers; may be repeated.")],
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; without one vLLM runs in this process.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers per question, model and temperature.")] = 1,
    temperature: Annotated[list[float], typer.Option(min=0.0, help="May be repeated.")] = [0.7],  # noqa: B006
    max_tokens: MaxTokens = 1024,
    concurrency: Concurrency = 16,
    timeout: Timeout = 120.0,
    retries: Retries = 5,
    engine: EngineOptions = "{}",
) -> None:
    """Has models answer questions; run again, it goes on where it stopped."""
    from vllm_judge.tokencourt import records
    from vllm_judge.tokencourt.answers import answer_by_endpoint, answer_offline, plan
    from vllm_judge.tokencourt.endpoint import Endpoint
    from vllm_judge.tokencourt.questions import Question

    jobs = plan(records.read(file, Question), model, temperature, samples)
    if endpoint:
        endpoints = [Endpoint(endpoint, name, timeout, retries) for name in model]
        outcome = answer_by_endpoint(jobs, endpoints, output, max_tokens, concurrency)
    elif len(model) == 1:
        outcome = answer_offline(jobs, output, max_tokens, json_object(engine, "--engine"))
    else:
        raise JudgeError("one process holds one model: run the command once for each --model, or give --endpoint.")
    say(f"{outcome.added} answers added to {output}, {outcome.before} were there.")
    report_failures(outcome.failures, output)


@app.command("check", epilog=example("court check court.jsonl"))
def check_file(
    file: CourtFile,
    repair: Annotated[bool, typer.Option("--repair", help="Set a cut-off last line aside, into FILE.cut.")] = False,
) -> None:
    """Says what is wrong with a court.jsonl, line by line; exit code 1 if anything is."""
    from collections import Counter

    from vllm_judge.tokencourt import records
    from vllm_judge.tokencourt.court import Answer, check

    if repair and file.exists():
        records.repair(file)
    verdicts: Counter[str] = Counter()
    problems = 0
    for found in check(file):
        if isinstance(found, Answer):
            verdicts[found.verdict.value if found.mistake is None else "localised"] += 1
        else:
            problems += 1
            say(f"{file}, {found}.")
    counts = ", ".join(f"{verdicts[name]} {name}" for name in ("right", "localised", "wrong", "unknown"))
    say(f"{file}: {verdicts.total()} answers ({counts}), {problems} problems.")
    if problems:
        raise typer.Exit(1)
