"""The command `vllm-judge push`."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.screen import say


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="A head's folder.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME; of a name such as TARGET-judge.")],
    private: Annotated[
        bool, typer.Option("--private", help="For its owner alone, where the repository is new.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="The target's Hub repository, where the head says a folder.")
    ] = None,
) -> None:
    """Sends a head's folder to the Hub: model card with the target's name and licence, judge.json, plots."""
    from vllm_judge.training.push import push as send

    say(f"{folder} is in {repository}: {send(folder, repository, private, target)}")
