"""`vllm-judge label function`: labels by a function of the user's own."""

from collections import Counter
from typing import Annotated

import typer

from vllm_judge.tokencourt.commands import CourtFile, Output, one_sentence


@one_sentence
def function(
    file: CourtFile,
    name: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="Takes an Answer and returns it labelled.")],
    output: Output,
) -> None:
    """Labels answers that need it by a Python function of yours: tests, a prover, a parser."""
    from vllm_judge.tokencourt import records
    from vllm_judge.tokencourt.court import Verdict, read_court
    from vllm_judge.tokencourt.label.function import label_by_function

    after = list(label_by_function(read_court(file), name))
    records.write(output, after)
    verdicts = Counter(answer.verdict for answer in after)
    typer.echo(
        f"{len(after)} answers in {output}: {verdicts[Verdict.right]} right, {verdicts[Verdict.wrong]} wrong, "
        f"{verdicts[Verdict.unknown]} unknown."
    )
