"""The command `vllm-judge shadow`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.screen import console, define, say


def shadow(
    url: Annotated[str, typer.Option(help="A running `vllm serve` with a judge, in shadow or with a share.")],
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to watch.")] = 60.0,
    slices: Annotated[int, typer.Option(min=1, help="Parts of that time, which the intervals are over.")] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures there.")] = None,
) -> None:
    """Says from a server's /metrics what a judge does on its traffic, or would do."""
    import functools
    from dataclasses import asdict

    from vllm_judge.quality.shadow import DEFINITIONS, SCORES_DEFINITION, read, read_scores, summarise, watch

    found = summarise(watch(functools.partial(read, url), seconds, slices))
    scores = read_scores(url)
    if json_file is not None:
        figures = {**asdict(found), "scores": [asdict(one) for one in scores]}
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    say(f"{found.shadow_cycles:.0f} cycles in shadow, {found.judged_cycles:.0f} judged, in {seconds:g} s of traffic")
    for name in DEFINITIONS:
        estimate = getattr(found, name)
        said = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate else "no such requests"
        say(f"{name.replace('_', ' '):<12}{said}")
    for one in scores:
        say(f"{'scores':<12}{one}")
    if not scores:
        say(f"{'scores':<12}nothing to compare with: the head carries none, or those of another threshold")
    define(DEFINITIONS | SCORES_DEFINITION, console())
