"""Labels by the target's own likelihood in a court.jsonl: SelfJudge's score in all questions that are left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.label.likelihood import Bounds, Scoring, answer_id, score_all, scored_by
from vllm_judge.tokencourt.label.pair import VllmPair
from vllm_judge.tokencourt.label.run import Asked, Tally, Write, label_left
from vllm_judge.tokencourt.label.search import Names
from vllm_judge.tokencourt.questions import Question


@dataclass(frozen=True)
class Outcome:
    """A run: questions that the file held already, and what was added to it."""

    before: int
    added: Tally


def self_judge(
    questions: Sequence[Question],
    names: Names,
    load_pair: Callable[[], VllmPair],
    output: Path,
    max_tokens: int,
    concurrency: int,
    window: int,
    bounds: Bounds,
    chat_template: str | None = None,
) -> Outcome:
    """Labels questions that the file does not hold yet; what came of one is in the file as soon as it is known.

    Args:
        questions: need no reference.
        names: of the pair.
        load_pair: starts its engines; called only where a question is left.
        output: a court.jsonl.
        max_tokens: longest answer.
        concurrency: questions under way at a time.
        window: so many of the answer's next tokens are scored, at least 1.
        bounds: what a fall says.
        chat_template: as `vllm serve` takes it; by default the target's own.

    Raises:
        JudgeError: the file holds labels by another window or other bounds.
        JudgeError: as `label_left`.
    """
    ours = scored_by(window, bounds)
    for line in records.scan(output, Answer) if output.exists() else ():
        theirs = line.record.metadata.get("scored_by", ours) if line.record else ours
        if theirs != ours:
            said = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in theirs.items())
            raise JudgeError(f"{output} holds labels by {said}: give the same ones, or another file with -o.")
    added = Tally()

    def label(pair: VllmPair, asked: Asked, write: Write) -> None:
        scorings = (Scoring(question, prompt, names, window, bounds) for question, prompt in asked)
        write(added.count(score_all(scorings, pair, max_tokens, concurrency)))

    before = label_left(
        questions,
        lambda question: answer_id(names, question),
        names,
        load_pair,
        output,
        max_tokens,
        chat_template,
        label,
        spare=1,  # vLLM reads no prompt behind which it could not write
    )
    return Outcome(before, added)
