"""`vllm-judge label self`: labels from a target and its draft, without reference answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_judge.cli.mine import Draft, Target, asked_of_pair, speed
from vllm_judge.cli.options import ChatTemplate, Concurrency, EngineOptions, MaxTokens, Output, Questions
from vllm_judge.cli.screen import say

if TYPE_CHECKING:
    from vllm_judge.tokencourt.label.self_judge import Outcome


def self_judge(
    file: Questions,
    output: Output,
    target: Target,
    draft: Draft,
    max_tokens: MaxTokens = 1024,
    concurrency: Concurrency = 128,
    engine: EngineOptions = "{}",
    draft_engine: EngineOptions = "{}",
    chat_template: ChatTemplate = None,
    window: Annotated[int, typer.Option(min=1, help="Tokens of the target's answer that are scored.")] = 20,
    right_to: Annotated[float, typer.Option(help="A fall up to this one is right, in nats a token.")] = 0.15,
    wrong_from: Annotated[float, typer.Option(help="A fall from this one on is wrong, in nats a token.")] = 0.25,
) -> None:
    """Finds the draft's tokens behind which the target's own answer becomes less likely; goes on where it stopped."""
    from vllm_judge.tokencourt.label.likelihood import Bounds
    from vllm_judge.tokencourt.label.self_judge import self_judge as label_by_self

    bounds = Bounds(right_to, wrong_from)
    outcome = label_by_self(
        *asked_of_pair(file, output, target, draft, engine, draft_engine),
        output,
        max_tokens,
        concurrency,
        window,
        bounds,
        chat_template.read() if chat_template else None,
    )
    for line in _said(outcome, output):
        say(line)


def _said(outcome: "Outcome", output: Path) -> list[str]:
    added = outcome.added
    said = [
        f"{added.questions} questions added to {output}, {outcome.before} were there.",
        f"{added.examined} mismatches scored: {added.unimportant} right, {added.important} wrong, "
        f"{added.undecided} between the bounds.",
    ]
    if added.questions > added.mined:
        said.append(f"  {added.questions - added.mined} questions not scored: the target's own answer is wrong")
    said += [f"  {count} mismatches without a label: {reason}" for reason, count in added.left_out.items()]
    if added.questions:
        said.append(f"{speed(added)[0].upper()}{speed(added)[1:]}.")
    return said
