"""`vllm-judge label mine`: labels from a target and its draft, without a reader."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_judge.cli.options import ChatTemplate, Concurrency, EngineOptions, MaxTokens, Output, Questions, json_object
from vllm_judge.cli.screen import say

Target = Annotated[str, typer.Option(help="Folder or repository of the target.")]
Draft = Annotated[str, typer.Option(help="Folder or repository of its draft.")]

if TYPE_CHECKING:
    from vllm_judge.tokencourt.label.mine import Outcome
    from vllm_judge.tokencourt.label.pair import VllmPair
    from vllm_judge.tokencourt.label.run import Tally
    from vllm_judge.tokencourt.label.search import Names
    from vllm_judge.tokencourt.questions import Question


def mine(
    file: Questions,
    output: Output,
    target: Target,
    draft: Draft,
    max_tokens: MaxTokens = 1024,
    concurrency: Concurrency = 128,
    engine: EngineOptions = "{}",
    draft_engine: EngineOptions = "{}",
    chat_template: ChatTemplate = None,
    compare_naive: Annotated[
        int,
        typer.Option(min=0, help="Mine so many questions again, one by one and without prefix caching, and compare."),
    ] = 0,
) -> None:
    """Finds the draft's tokens that change the target's final answer; run again, it goes on where it stopped."""
    from vllm_judge.tokencourt.label.mine import mine as mine_questions

    outcome = mine_questions(
        *asked_of_pair(file, output, target, draft, engine, draft_engine),
        output,
        max_tokens,
        concurrency,
        compare_naive,
        chat_template.read() if chat_template else None,
    )
    for line in _said(outcome, output):
        say(line)


def asked_of_pair(
    file: Path, output: Path, target: str, draft: str, engine: str, draft_engine: str
) -> "tuple[list[Question], Names, Callable[[], VllmPair]]":
    """What a pair's own labels begin with: the questions, the pair's names, and how its engines are loaded."""
    from vllm_judge.tokencourt.court import Answer
    from vllm_judge.tokencourt.label.pair import VllmPair
    from vllm_judge.tokencourt.label.run import load_names
    from vllm_judge.tokencourt.outputs import claim
    from vllm_judge.tokencourt.questions import read_questions

    questions = read_questions(file)
    claim(output, Answer, file)
    options = json_object(engine, "--engine"), json_object(draft_engine, "--draft-engine")
    return questions, load_names(target, draft), lambda: VllmPair.load(target, draft, *options)


def _said(outcome: "Outcome", output: Path) -> list[str]:
    batched, naive = outcome.batched, outcome.naive
    said = [
        f"{batched.questions} questions added to {output}, {outcome.before} were there.",
        f"{batched.mined} of them mined: {batched.examined} mismatches examined, {batched.important} important.",
    ]
    if batched.questions > batched.mined:
        said.append(f"  {batched.questions - batched.mined} not mined: the target's own answer is wrong or was cut")
    said += [f"  {count} mismatches without a label: {reason}" for reason, count in batched.left_out.items()]
    if outcome.not_checkable:
        said.append(f"  {outcome.not_checkable} questions passed over: they have no reference or no check")
    if batched.questions:
        said.append(f"Batched, with prefix caching: {speed(batched)}.")
    if naive.questions:
        said.append(f"One by one, without: {speed(naive)}.")
    if naive.examined:
        ratio = (batched.examined / batched.seconds) / (naive.examined / naive.seconds)
        said.append(f"Batched is {ratio:.1f} times as fast, by mismatches per second.")
    return said


def speed(tally: "Tally") -> str:
    """Questions and mismatches a second."""
    return (
        f"{tally.questions} questions in {tally.seconds:.1f} s, {tally.questions / tally.seconds:.3g} questions/s, "
        f"{tally.examined / tally.seconds:.3g} mismatches/s"
    )
