"""The command `vllm-judge calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_judge.calibration.choices import CONCURRENCY, NUM_DRAFTS
from vllm_judge.cli.options import ChatTemplate, EngineOptions, json_object
from vllm_judge.cli.screen import console, say
from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.errors import JudgeError, PromiseError
from vllm_judge.training.choices import SourceName

if TYPE_CHECKING:
    from vllm_judge.calibration.sources import Source
    from vllm_judge.head import JudgeHead

Thresholds = Annotated[list[float], typer.Option(min=0.0, max=1.0, help="Threshold to try; may be repeated.")]


def calibrate(
    questions: Annotated[
        list[Path],
        typer.Argument(metavar="QUESTIONS...", help="As `court questions` writes them; held-out ones count."),
    ],
    target: Annotated[str, typer.Option(help="Folder or repository of the target.")],
    head: Annotated[
        list[Path],
        typer.Option(exists=True, file_okay=False, help="Folder of a judge head; several are measured side by side."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the answers.")],
    into: Annotated[
        list[Path] | None,
        typer.Option(file_okay=False, help="Folder for a calibrated copy, one for each head; by default its own."),
    ] = None,
    draft: Annotated[str | None, typer.Option(help="Folder or repository of a draft model.")] = None,
    speculative_config: Annotated[
        str | None,
        typer.Option(help="Instead of --draft any drafter of vLLM's: its config without a judge, a file or JSON."),
    ] = None,
    source: Annotated[SourceName, typer.Option(help="What decodes.")] = SourceName.vllm,
    engine: EngineOptions = "{}",
    url: Annotated[
        str | None, typer.Option(help="Instead of an engine in this process: a running `vllm serve` with the judge.")
    ] = None,
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0.0, help="Percentage points below strict verification, at the 95% interval's end.")
    ] = 1.0,
    threshold: Thresholds = [0.3, 0.5, 0.7, 0.9, 0.97],  # noqa: B006
    num_speculative_tokens: Annotated[
        int | None,
        typer.Option(min=1, help=f"Draft tokens per cycle; by default the config's, of a draft model {NUM_DRAFTS}."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask so many held-out questions at most.")] = None,
    chat_template: ChatTemplate = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help=f"With --url: requests under way at a time, by default {CONCURRENCY}.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"With transformers: texts side by side, by default {BATCH_SIZE}.")
    ] = None,
    device_map: Annotated[
        str | None, typer.Option(help="With transformers: where the target's layers go, such as auto for all GPUs.")
    ] = None,
) -> None:
    """Picks heads' thresholds by a promise, with judged decoding of held-out questions; goes on where it stopped."""
    from vllm_judge.calibration.calibrate import choose_threshold, measure_thresholds, write_threshold
    from vllm_judge.calibration.drafter import draft_model, drafter
    from vllm_judge.cli.tables import points_table
    from vllm_judge.comparison.compare import BASELINE
    from vllm_judge.comparison.points import with_front
    from vllm_judge.decoding.pair import Sampling
    from vllm_judge.decoding.questions import held_out_questions
    from vllm_judge.training.head_folder import copy_head

    options = json_object(engine, "--engine")
    if source == SourceName.transformers:
        _refuse({"--engine": options, "--url": url, "--concurrency": concurrency}, "--source vllm")
    else:
        _refuse({"--batch-size": batch_size, "--device-map": device_map}, "--source transformers")
    if url:
        _refuse({"--engine": options}, "an engine in this process")
    else:
        _refuse({"--concurrency": concurrency}, "--url")
    if into and len(into) != len(head):
        raise JudgeError(f"give one --into for each --head: found {len(into)} and {len(head)}.")
    if url and len(head) > 1:
        raise JudgeError("a server judges with one head: give one --head with --url.")
    config = drafter(draft, _config(speculative_config), num_speculative_tokens)

    def open_source() -> "Source":
        if source == SourceName.transformers:
            from vllm_judge.calibration.reference import TransformersSource

            return TransformersSource(target, draft_model(config), batch_size or BATCH_SIZE, device_map)
        if url:
            from vllm_judge.calibration.served import ServedSource

            return ServedSource(url, target, config, concurrency or CONCURRENCY)
        from vllm_judge.calibration.offline import OfflineSource

        return OfflineSource(target, config, options)

    opened = open_source()
    heads = {str(folder): opened.load_head(str(folder)) for folder in head}
    template = chat_template.read() if chat_template else None
    asked = held_out_questions(questions, opened.tokenizer, template)[:limit]
    how = Sampling(config["num_speculative_tokens"], max_new_tokens)
    contenders, points, scores = measure_thresholds(opened, heads, asked, threshold, how, output)
    console().print(points_table(contenders, points))
    about = {"target": target, "speculative_config": config, **vars(how), **opened.about}
    refusals = []
    for (folder, judge), place in zip(heads.items(), into or head, strict=True):
        own = with_front([point for point in points if point.rule in (BASELINE, folder)])
        try:
            chosen = choose_threshold(own, max_accuracy_drop)
        except PromiseError as error:
            refusals.append(f"{folder}: {error}")
            continue
        if into:
            copy_head(Path(folder), place)
        at = next(i for i, point in enumerate(points) if (point.rule, point.setting) == (chosen.rule, chosen.setting))
        calibrated = write_threshold(place, judge.cpu(), own, chosen, max_accuracy_drop, about, scores[at])
        say(calibrated.provenance["calibration"]["promise"])
        say(f"{place}: the default threshold is {calibrated.threshold:g} now.")
        say(f"{place}: {_drift_guard(calibrated)}")
    if refusals:
        raise PromiseError("\n".join(refusals))


def _drift_guard(head: "JudgeHead") -> str:
    from vllm_judge.drift import MIN_ANSWERS

    if (scores := head.scores) is None:
        return (
            f"no drift guard: it needs {MIN_ANSWERS} answers in which the judge decided on a draft, from vLLM with "
            "this version of the plugin."
        )
    return (
        f"the drift guard compares windows of {scores.window} answers with these {scores.answers}; limit "
        f"{scores.limit:.2f}."
    )


def _refuse(given: dict[str, Any], place: str) -> None:
    """Options that mean nothing where answers are decoded."""
    if names := [name for name, value in given.items() if value]:
        raise JudgeError(f"{' and '.join(names)} can be given with {place} only.")


def _config(text: str | None) -> str | dict[str, Any] | None:
    return json_object(text, "--speculative-config") if text and text.lstrip().startswith("{") else text
