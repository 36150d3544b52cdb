"""The command `vllm-judge report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of results; others inside count.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", dir_okay=False, help="By default report.html in the folder.")
    ] = None,
) -> None:
    """Makes one self-contained HTML page of everything that was measured: pictures, tables, definitions, provenance."""
    from vllm_judge.evaluation.provenance import command
    from vllm_judge.evaluation.report import ReportError, find, page

    try:
        found = find(folder)
    except ReportError as error:
        typer.echo(f"vllm-judge: {error}", err=True)
        raise typer.Exit(1) from None
    path = output or folder / "report.html"
    path.write_text(page(found, command()), encoding="utf-8")
    typer.echo(f"{path}: {', '.join(found.sections)}")
    if found.unknown:
        typer.echo(f"not shown, in no known form: {', '.join(found.unknown)}", err=True)
