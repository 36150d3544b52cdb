"""`vllm-judge head`: heads that were made elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import example
from vllm_judge.cli.screen import say

app = typer.Typer(no_args_is_help=True)
import_app = typer.Typer(no_args_is_help=True)


@app.callback()
def head() -> None:
    """Heads that were made elsewhere."""


@import_app.callback()
def import_() -> None:
    """Makes judge heads of what others published."""


@import_app.command(epilog=example("head import selfjudge Llama-3.1-8B-self-logistic-num20.pkl --target T -o T-judge"))
def selfjudge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pickle of scikit-learn's; no code of it is run.")],
    target: Annotated[str, typer.Option(help="Folder or repository of the target that it was fitted on.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the head.")],
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Theirs: a token is accepted whose importance is below it.")
    ] = 0.5,
) -> None:
    """Imports a head of SelfJudge or AutoJudge: a scaler and a logistic regression on the target's hidden state."""
    from vllm_judge.training.import_selfjudge import import_selfjudge

    imported = import_selfjudge(file, target, threshold, output)
    say(f"{output}: a head that reads {imported.hidden_size} numbers, default threshold {imported.threshold:g}.")
    for name, value in imported.provenance["their_thresholds"].items():
        say(f"  the file's {name} is {value:g}: --threshold {value:g} takes it.")


app.add_typer(import_app, name="import")
