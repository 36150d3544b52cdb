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
from vllm_judge.cli.screen import say, warn
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
    source: Annotated[
        str, typer.Argument(help="gsm8k, arc, alpaca; a dataset's name or folder; a JSON(L) file, also .gz.")
    ],
    output: Output,
    layout: Annotated[str | None, typer.Option(help="gsm8k, arc or alpaca: the layout of a copy of these.")] = None,
    question_field: Annotated[
        str | None, typer.Option(help="Field with the question, in other layouts; by default `question`.")
    ] = None,
    reference_field: Annotated[str | None, typer.Option(help="Field with the right final answer.")] = None,
    check: Annotated[Check | None, typer.Option(help="How final answers are compared with the reference.")] = None,
    config: Annotated[str | None, typer.Option(help="The dataset's configuration.")] = None,
    split: Annotated[str | None, typer.Option(help="The dataset's split; by default `train`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many questions at most.")] = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of questions held out.")] = HELD_OUT,
) -> None:
    """Writes questions with a fixed train/held-out split."""
    from itertools import islice

    from vllm_judge.demo import court as demo
    from vllm_judge.tokencourt.choices import Split
    from vllm_judge.tokencourt.layouts import KNOWN, plain
    from vllm_judge.tokencourt.outputs import claim, replace
    from vllm_judge.tokencourt.questions import Passed, Question, make_questions
    from vllm_judge.tokencourt.rows import is_file, rows_of

    known = KNOWN.get(layout or source)
    if layout and not known:
        raise JudgeError(f"--layout must be one of {', '.join(KNOWN)}, found {layout!r}.")
    if known and (question_field or reference_field or check):
        raise JudgeError(
            f"the layout of {layout or source} knows its fields and its check: "
            "leave --question-field, --reference-field and --check out."
        )
    if check and not reference_field and not known:
        raise JudgeError("--check compares with a reference: give --reference-field too.")
    if is_file(source) and (config or split):
        raise JudgeError(f"{source} is a file: --config and --split are for datasets.")
    claim(output, Question, *([Path(source)] if is_file(source) else []))
    if source in KNOWN:
        source, config = KNOWN[source].name, config or KNOWN[source].config
    rows = demo.rows(config, split or "train") if source == "demo" else rows_of(source, config, split or "train")
    passed = Passed()
    laid_out = known.layout if known else plain(question_field or "question", reference_field, check)
    kept = list(islice(make_questions(rows, Path(source).name.split(".")[0], laid_out, held_out, passed), limit))
    replace(output, kept)
    count = sum(question.split == Split.held_out for question in kept)
    say(f"{len(kept)} questions in {output}: {len(kept) - count} to train on, {count} held out.")
    if passed.without_reference:
        warn(f"{passed.without_reference} of them have no reference: nobody can check their answers.")
    if passed.repeated:
        warn(f"{passed.repeated} rows left out: they ask what an earlier row asks.")
    if passed.differing:
        shown = ", ".join(map(str, passed.differing[:5])) + (" ..." if len(passed.differing) > 5 else "")
        warn(f"{len(passed.differing)} of these give another reference than the earlier row: {shown}.")


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
    from vllm_judge.tokencourt.answers import answer_by_endpoint, answer_offline, plan
    from vllm_judge.tokencourt.court import Answer
    from vllm_judge.tokencourt.endpoint import Endpoint
    from vllm_judge.tokencourt.outputs import claim
    from vllm_judge.tokencourt.questions import read_questions

    jobs = plan(read_questions(file), model, temperature, samples)
    claim(output, Answer, file)
    if endpoint:
        if engine != "{}":
            raise JudgeError("--engine is of vLLM in this process: leave it or --endpoint out.")
        endpoints = [Endpoint(endpoint, name, timeout, retries) for name in dict.fromkeys(model)]
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
