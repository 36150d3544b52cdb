"""Arguments and options that several commands share, and what is made of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from vllm_judge.cli.screen import fail
from vllm_judge.errors import JudgeError

CourtFile = Annotated[Path, typer.Argument(metavar="FILE", help="A court.jsonl.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
EndpointUrl = Annotated[str, typer.Option(help="OpenAI-compatible endpoint, such as http://localhost:8000/v1.")]
Questions = Annotated[Path, typer.Argument(metavar="QUESTIONS", help="Questions, as `court questions` writes them.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens that one reply may have.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests under way at a time.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")]
EngineOptions = Annotated[
    str, typer.Option(help="Options of vLLM's LLM as JSON, such as '{\"tensor_parallel_size\": 4}'.")
]
ChatTemplate = Annotated[
    typer.FileText | None, typer.Option(encoding="utf-8", help="As for vllm serve; by default the target's own.")
]
Retries = Annotated[int, typer.Option(min=0, help="Repetitions of a request that failed.")]
NumDrafts = Annotated[int, typer.Option("--num-speculative-tokens", min=1, help="Draft tokens per cycle.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts side by side; fewer take less memory.")]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Where the target's layers go, such as auto for all GPUs; by default the first GPU, or the CPU."),
]


def _claimed(path: Path | None) -> Path | None:
    """An output that loses nobody's results, before any work."""
    from vllm_judge.measuring.provenance import claim

    if path:
        claim(path)
    return path


JsonPath = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, callback=_claimed, help="Write the figures there too.")
]


def example(*command_lines: str) -> str:
    """The end of a command's help: how it is called."""
    return "For example: " + "; ".join(f"vllm-judge {line}" for line in command_lines)


def json_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option was given as.

    Raises:
        JudgeError: it is something else.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise JudgeError(f"{option} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise JudgeError(f"{option} must be a JSON object, found {text}.")
    return value


def report_failures(failures: Counter[str], output: Path) -> None:
    """Says which requests failed and why; exit code 1 where any did."""
    if not failures:
        return
    for reason, count in failures.most_common():
        fail(f"{count} requests failed: the endpoint {reason.rstrip('.')}.")
    fail(f"run the same command again to ask once more; {output} keeps what is done.")
    raise typer.Exit(1)
