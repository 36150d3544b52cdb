"""The commands `vllm-judge court` and `vllm-judge label`; what they do lies in the modules beside this folder."""

import json
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from vllm_judge.tokencourt.errors import CourtError

P = ParamSpec("P")
T = TypeVar("T")

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


def one_sentence(command: Callable[P, T]) -> Callable[P, T]:
    """Ends a command with exit code 1 and one sentence where the user can mend what is wrong."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except CourtError as error:
            typer.echo(f"vllm-judge: {error}", err=True)
            raise typer.Exit(1) from None

    return run


def report_failures(failures: Counter[str], output: Path) -> None:
    """Says which requests failed and why; exit code 1 where any did."""
    if not failures:
        return
    for reason, count in failures.most_common():
        typer.echo(f"vllm-judge: {count} requests failed: the endpoint {reason}.", err=True)
    typer.echo(f"vllm-judge: run the same command again to ask once more; {output} keeps what is done.", err=True)
    raise typer.Exit(1)


def json_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option was given as.

    Raises:
        CourtError: it is something else.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise CourtError(f"{option} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CourtError(f"{option} must be a JSON object, found {text}.")
    return value
