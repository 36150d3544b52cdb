"""The command `vllm-judge tune`."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import ChatTemplate, EngineOptions, Output, json_object
from vllm_judge.cli.screen import console, say
from vllm_judge.errors import JudgeError


def tune(
    heads: Annotated[
        list[Path],
        typer.Argument(
            metavar="HEAD...", exists=True, file_okay=False, help="Calibrated heads, each for its number of drafts."
        ),
    ],
    target: Annotated[str, typer.Option(help="Folder or repository of the target.")],
    questions: Annotated[list[Path], typer.Option(help="As `court questions` writes them; held-out ones are asked.")],
    output: Output,
    into: Annotated[Path, typer.Option(file_okay=False, help="Folder for the head that is chosen.")],
    concurrency: Annotated[list[int], typer.Option(min=1, help="Requests at a time; may be repeated.")] = [8],  # noqa: B006
    strict_drafts: Annotated[
        list[int], typer.Option(min=1, help="Numbers of drafts that only strict verification is timed with, too.")
    ] = [2, 4],  # noqa: B006
    n: Annotated[int, typer.Option("-n", min=1, help="Questions of a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds of each.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    chat_template: ChatTemplate = None,
    engine: EngineOptions = "{}",
) -> None:
    """Times calibrated heads beside strict and plain decoding, and writes the fastest, with its number of drafts."""
    from vllm_judge.calibration import num_drafts, speed
    from vllm_judge.cli.tables import speeds_table
    from vllm_judge.decoding.questions import held_out_questions
    from vllm_judge.tokencourt.outputs import claim
    from vllm_judge.tokencourt.tokenizer import load_tokenizer

    if into.resolve() in [one.resolve() for one in heads]:
        raise JudgeError(f"--into {into} is one of the heads: name another folder.")
    candidates = speed.deployments(heads)
    options = json_object(engine, "--engine")
    template = chat_template.read() if chat_template else None
    tokenizer = load_tokenizer(target, "--target")
    claim(output, speed.Speed, *questions)
    asked = held_out_questions(questions, tokenizer, template)[:n]
    prompts = [one.prompt_ids for one in asked]
    levels = list(dict.fromkeys(concurrency))
    engines = speed.runs(candidates, strict_drafts)
    speeds = speed.measure(engines, target, prompts, levels, rounds, max_new_tokens, options, output)
    console().print(speeds_table(speeds))
    served, chosen = num_drafts.choose(candidates, speeds, options)
    num_drafts.write(into, served, chosen, len(prompts), rounds)
    numbers = ", ".join(f"{level.judged.drafts} at {level.concurrency} at a time" for level in chosen)
    say(f"{into}: the head of {served.folder} with {served.drafts} drafts per cycle; the fastest: {numbers}.")
