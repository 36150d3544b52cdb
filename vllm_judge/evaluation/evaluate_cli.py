"""The command `vllm-judge evaluate`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console


def evaluate(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or groups of lm-eval that generate text, such as gsm8k.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for evaluate.json and samples.jsonl.")],
    url: Annotated[str | None, typer.Option(help="A running `vllm serve` with a judge.")] = None,
    model: Annotated[
        str | None, typer.Option(help="With --url the served model, by default the first; else the target to load.")
    ] = None,
    speculative_config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="judge.json of an engine in this process.")
    ] = None,
    engine_options: Annotated[str, typer.Option(help="More options of that engine's `LLM`, a JSON object.")] = "{}",
    tasks_folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of your own tasks' YAML files.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the chat template.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; by default all.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples in a prompt; by default the task's.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(min=0.0, max=1.0, help="Judge at this threshold; can be repeated.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight, over HTTP.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer where the task does not say.")] = 1024,
    run_unsafe_code: Annotated[
        bool, typer.Option("--run-unsafe-code", help="Allow tasks that run generated programs here, such as humaneval.")
    ] = False,
) -> None:
    """Measures quality and speed on lm-eval's tasks, strictly verified and judged by one engine, answer by answer."""
    if (url is None) == (speculative_config is None) or (speculative_config and model is None):
        _fail("give either --url of a server, or --model and --speculative-config.")
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        _fail("evaluate needs lm-eval: install vllm-judge-decoding with the extra `evaluate`.")

    from vllm_judge.evaluation.provenance import provenance
    from vllm_judge.evaluation.quality import EvaluationError, TaskOptions, arms, measure
    from vllm_judge.evaluation.quality_counters import CountersError
    from vllm_judge.evaluation.quality_engines import EngineError, OfflineEngine, ServedEngine
    from vllm_judge.evaluation.quality_scores import DEFINITIONS, tables
    from vllm_judge.evaluation.quality_summary import scores, speeds, write

    try:
        more = dict(json.loads(engine_options))
    except (ValueError, TypeError):
        _fail(f"--engine-options must be a JSON object, found {engine_options}.")
    output = output.absolute()
    asked = TaskOptions(tasks, tasks_folder, limit, num_fewshot, chat, run_unsafe_code)
    try:
        if url:
            engine = ServedEngine(url, model, chat, max_tokens, concurrency)
        else:
            options = {"model": model, "speculative_config": str(speculative_config)}
            engine = OfflineEngine(options | more, chat, max_tokens)
        found = measure(engine, asked, arms(threshold or []))
    except (CountersError, EngineError, EvaluationError) as error:
        _fail(str(error))

    settings = {
        "tasks": ", ".join(tasks),
        "engine": "vllm serve, over HTTP" if url else "vllm.LLM, in this process",
        "model": engine.name,
        "limit": limit,
        "num_fewshot": num_fewshot,
        "chat": chat,
        "max_tokens": max_tokens,
    } | ({"concurrency": concurrency} if url else {"engine_options": more})
    command = shlex.join(["vllm-judge", *sys.argv[1:]])
    write(output, found, {"settings": settings, "machine": provenance(), "command": command})
    console = Console()
    for table in tables(scores(found), speeds(found)):
        console.print(table)
    for name, meaning in DEFINITIONS.items():
        console.print(f"{name.replace('_', ' ')}: {meaning}.", highlight=False)
    console.print(f"{output}: evaluate.json, samples.jsonl", highlight=False)


def _fail(message: str) -> NoReturn:
    typer.echo(f"vllm-judge: {message}", err=True)
    raise typer.Exit(1)
