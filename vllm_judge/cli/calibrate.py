"""The command `vllm-judge calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import BatchSize, ChatTemplate, DeviceMap, NumDrafts
from vllm_judge.cli.screen import console, say
from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.errors import PromiseError

Thresholds = Annotated[list[float], typer.Option(min=0.0, max=1.0, help="Threshold to try; may be repeated.")]


def calibrate(
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS", help="Questions, as `court questions` writes them; held-out ones count."),
    ],
    target: Annotated[str, typer.Option(help="Folder or repository of the target.")],
    draft: Annotated[str, typer.Option(help="Folder or repository of the draft model.")],
    head: Annotated[
        list[Path],
        typer.Option(exists=True, file_okay=False, help="Folder of a judge head; several are measured side by side."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the answers.")],
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0.0, help="Percentage points below strict verification, at the 95% interval's end.")
    ] = 1.0,
    threshold: Thresholds = [0.3, 0.5, 0.7, 0.9, 0.97],  # noqa: B006
    num_speculative_tokens: NumDrafts = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask so many held-out questions at most.")] = None,
    chat_template: ChatTemplate = None,
    batch_size: BatchSize = BATCH_SIZE,
    device_map: DeviceMap = None,
) -> None:
    """Picks heads' thresholds by a promise, with judged decoding of held-out questions; goes on where it stopped."""
    from vllm_judge.calibration.calibrate import choose_threshold, measure_thresholds, write_threshold
    from vllm_judge.cli.tables import points_table
    from vllm_judge.comparison.compare import BASELINE
    from vllm_judge.comparison.points import with_front
    from vllm_judge.decoding.pair import Pair, Sampling, default_dtype
    from vllm_judge.decoding.questions import held_out_questions

    pair = Pair.load(target, draft, default_dtype(), device_map)
    heads = {str(folder): pair.load_head(str(folder)) for folder in head}
    template = chat_template.read() if chat_template else None
    asked = held_out_questions(questions, pair.tokenizer, template)[:limit]
    how = Sampling(num_speculative_tokens, max_new_tokens)
    contenders, points = measure_thresholds(pair, heads, asked, threshold, how, output, batch_size)
    console().print(points_table(contenders, points))
    about = {"target": target, "draft": draft, **vars(how)}
    refusals = []
    for folder, judge in heads.items():
        own = with_front([point for point in points if point.rule in (BASELINE, folder)])
        try:
            chosen = choose_threshold(own, max_accuracy_drop)
        except PromiseError as error:
            refusals.append(f"{folder}: {error}")
            continue
        calibrated = write_threshold(Path(folder), judge.cpu(), own, chosen, max_accuracy_drop, about)
        say(calibrated.provenance["calibration"]["promise"])
        say(f"{folder}: the default threshold is {calibrated.threshold:g} now.")
    if refusals:
        raise PromiseError("\n".join(refusals))
