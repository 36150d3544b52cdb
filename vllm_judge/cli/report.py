"""The command `vllm-judge report`."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.screen import say, warn


def report(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of results; others inside count.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", dir_okay=False, help="By default report.html in the folder.")
    ] = None,
) -> None:
    """Makes one self-contained HTML page of everything that was measured: pictures, tables, definitions, provenance."""
    from vllm_judge.measuring.provenance import command
    from vllm_judge.report.assemble import find, page

    found = find(folder)
    path = output or folder / "report.html"
    path.write_text(page(found, command()), encoding="utf-8")
    say(f"{path}: {', '.join(found.sections)}")
    if found.unknown:
        warn(f"not shown, in no known form: {', '.join(found.unknown)}")
