"""Mined labels in a court.jsonl: AutoJudge's search in all questions that are left, beside one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt.label.pair import VllmPair
from vllm_judge.tokencourt.label.run import Asked, Tally, Write, label_left
from vllm_judge.tokencourt.label.search import Names, Search, search_all
from vllm_judge.tokencourt.questions import Question


@dataclass(frozen=True)
class Outcome:
    """A run.

    Attributes:
        before: questions that the file held already.
        not_checkable: questions without a reference or a check.
        batched: what was added to the file.
        naive: the first of the same questions one by one, without the prefix cache; nothing where not asked for.
    """

    before: int
    not_checkable: int
    batched: Tally
    naive: Tally


def mine(
    questions: Sequence[Question],
    names: Names,
    load_pair: Callable[[], VllmPair],
    output: Path,
    max_tokens: int,
    concurrency: int,
    naive: int = 0,
    chat_template: str | None = None,
) -> Outcome:
    """Mines questions that the file does not hold yet; what came of one is in the file as soon as it is known.

    Args:
        questions: those without a reference or a check are passed over.
        names: of the pair.
        load_pair: starts its engines; called only where a question is left.
        output: a court.jsonl.
        max_tokens: longest answer.
        concurrency: questions under way at a time.
        naive: so many of the questions are mined again one by one, for comparison only.
        chat_template: as `vllm serve` takes it; by default the target's own.

    Raises:
        JudgeError: no question has a reference and a check.
        JudgeError: as `label_left`.
    """
    checkable = [question for question in questions if question.reference is not None and question.check]
    if not checkable:
        raise JudgeError(
            "no question has a reference and a check: without them nobody can tell whether a final answer changes "
            "(see --reference-field and --check of `court questions`)."
        )
    batched, alone = Tally(), Tally()

    def label(pair: VllmPair, asked: Asked, write: Write) -> None:
        searches = (Search(question, prompt, names, max_tokens) for question, prompt in asked)
        write(batched.count(search_all(searches, pair, concurrency)))
        if naive:  # last, so that what an engine does at its first requests counts against the batched run
            searches = (Search(question, prompt, names, max_tokens) for question, prompt in asked[:naive])
            with bar("one by one", min(naive, len(asked))) as advance:
                for _ in alone.count(search_all(searches, replace(pair, prefix_cache=False), 1)):
                    advance()

    before = label_left(checkable, names.answer_id, names, load_pair, output, max_tokens, chat_template, label)
    return Outcome(before, len(questions) - len(checkable), batched, alone)
