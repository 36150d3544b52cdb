"""The command `vllm-judge evaluate`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_judge.cli.options import json_object, report_failures
from vllm_judge.cli.screen import console, define
from vllm_judge.errors import JudgeError

if TYPE_CHECKING:
    from vllm_judge.quality.engines import Engine
    from vllm_judge.quality.tasks import TaskOptions

EITHER_OR = "give either tasks, or --mt-bench with --judge-endpoint and --judge-model."


def evaluate(
    output: Annotated[Path, typer.Option("-o", "--output", file_okay=False, help="Folder for figures and answers.")],
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Tasks or groups of lm-eval that generate text, such as gsm8k.")
    ] = None,
    mt_bench: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Instead of tasks: MT-Bench's questions, or others in its form."
        ),
    ] = None,
    judge_endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the model that compares their answers.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="That model's name.")] = None,
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
    chat: Annotated[bool, typer.Option("--chat", help="Apply the chat template; --mt-bench always does.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; by default all.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples in a prompt; by default the task's.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(min=0.0, max=1.0, help="Judge at this threshold; can be repeated.")
    ] = None,
    both_scopes: Annotated[
        bool, typer.Option("--both-scopes", help="Judge also with the judge confined to reasoning.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight, over HTTP.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer where the task does not say.")] = 1024,
    run_unsafe_code: Annotated[
        bool, typer.Option("--run-unsafe-code", help="Allow tasks that run generated programs here, such as humaneval.")
    ] = False,
) -> None:
    """Measures quality and speed on tasks or open questions, strictly verified and judged by one engine."""
    if (url is None) == (speculative_config is None) or (speculative_config and model is None):
        raise JudgeError("give either --url of a server, or --model and --speculative-config.")
    if bool(tasks) == bool(mt_bench) or bool(mt_bench) != bool(judge_endpoint and judge_model):
        raise JudgeError(EITHER_OR)
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise JudgeError("evaluate needs lm-eval: install vllm-judge-decoding with the extra `evaluate`.") from None

    from vllm_judge.measuring.provenance import claim
    from vllm_judge.quality.engines import OfflineEngine, ServedEngine
    from vllm_judge.quality.tasks import TaskOptions, arms

    dials = arms(threshold or [], both_scopes)
    more = json_object(engine_options, "--engine-options")
    output = output.absolute()
    claim(output / ("mt_bench.json" if mt_bench else "evaluate.json"))
    chat = chat or mt_bench is not None

    def start_engine() -> "Engine":
        if url:
            return ServedEngine(url, model, chat, max_tokens, concurrency)
        options = {"model": model, "speculative_config": str(speculative_config)}
        return OfflineEngine(options | more, chat, max_tokens)

    settings: dict[str, Any] = {
        "engine": "vllm serve, over HTTP" if url else "vllm.LLM, in this process",
        "chat": chat,
        "max_tokens": max_tokens,
    } | ({"concurrency": concurrency} if url else {"engine_options": more})
    if mt_bench and judge_endpoint and judge_model:
        settings |= {"judge_model": judge_model}
        _pairwise(start_engine, mt_bench, judge_endpoint, dials, output, concurrency, settings)
    else:
        asked = TaskOptions(tasks or [], tasks_folder, limit, num_fewshot, chat, run_unsafe_code)
        _tasks(start_engine, asked, dials, output, settings)


def _tasks(
    start_engine: "Callable[[], Engine]",
    asked: "TaskOptions",
    dials: dict[str, dict[str, Any]],
    output: Path,
    settings: dict[str, Any],
) -> None:
    """lm-eval's tasks."""
    from vllm_judge.cli.tables import score_table, speed_table
    from vllm_judge.measuring.provenance import about
    from vllm_judge.quality.scores import DEFINITIONS, SPEED_DEFINITIONS
    from vllm_judge.quality.summary import scores, speeds, write
    from vllm_judge.quality.tasks import measure

    engine = start_engine()
    found = measure(engine, asked, dials)
    settings |= {"tasks": ", ".join(asked.names), "model": engine.name}
    settings |= {"limit": asked.limit, "num_fewshot": asked.num_fewshot}
    write(output, found, about(settings))
    out = console()
    out.print(score_table(scores(found)))
    out.print(speed_table(speeds(found)))
    define(DEFINITIONS | SPEED_DEFINITIONS, out)
    out.print(f"{output}: evaluate.json, samples.jsonl")


def _pairwise(
    start_engine: "Callable[[], Engine]",
    questions_file: Path,
    judge_endpoint: str,
    dials: dict[str, dict[str, Any]],
    output: Path,
    concurrency: int,
    settings: dict[str, Any],
) -> None:
    """MT-Bench; exit code 1 where the endpoint left comparisons out, which another run then asks for."""
    from vllm_judge.cli.tables import mt_bench_table, speed_table
    from vllm_judge.measuring.provenance import about
    from vllm_judge.quality.mt_bench import summary
    from vllm_judge.quality.mt_bench.answers import answers_of, read_questions
    from vllm_judge.quality.mt_bench.judge import judge, pairs
    from vllm_judge.quality.mt_bench.scores import DEFINITIONS
    from vllm_judge.quality.scores import SPEED_DEFINITIONS
    from vllm_judge.tokencourt.endpoint import Endpoint

    endpoint = Endpoint(judge_endpoint, settings["judge_model"])
    questions = read_questions(questions_file)
    answers = output / "mt_bench_answers.jsonl"
    answered = answers_of(answers, questions, dials, settings["max_tokens"], start_engine)
    compared = list(pairs(questions, answered))
    verdicts = output / "mt_bench_verdicts.jsonl"
    given, failures = judge(compared, endpoint, verdicts, concurrency)
    report_failures(failures, verdicts)
    comparisons = summary.summarise(compared, given)
    settings |= {"questions": questions_file.name, "n": len(questions), "model": answered[0].model}
    summary.write(output / "mt_bench.json", comparisons, answered, about(settings))
    out = console()
    out.print(mt_bench_table(comparisons))
    out.print(speed_table({one.arm: summary.speed(one.counted, one.seconds) for one in answered}))
    define(DEFINITIONS | SPEED_DEFINITIONS, out)
    out.print(f"{output}: mt_bench.json, {answers.name}, {verdicts.name}")
