"""What a pair finds out of questions, in a court.jsonl: which questions are left, what comes of them, and how fast."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.label.mismatches import Mismatch
from vllm_judge.tokencourt.label.pair import VllmPair
from vllm_judge.tokencourt.label.search import Names
from vllm_judge.tokencourt.questions import Question
from vllm_judge.tokencourt.tokenizer import load_tokenizer, prompt_ids


class Labelled(Protocol):
    """What came of a question.

    Attributes:
        mined: whether there was anything to examine: not where the target's own answer is wrong.
        left_out: mismatches that have no label, by reason.
        mismatches: what was examined.
    """

    mined: bool
    left_out: Counter[str]

    @property
    def mismatches(self) -> Collection[Mismatch]: ...

    def answers(self) -> Iterator[Answer]:
        """The lines; the last says that all are there."""
        ...


L = TypeVar("L", bound=Labelled)
Asked = Sequence[tuple[Question, list[int]]]  # questions and their prompts' tokens
Write = Callable[[Iterable[Labelled]], None]


@dataclass
class Tally:
    """What a run came to.

    Attributes:
        questions: how many were asked.
        mined: of how many there was anything to examine.
        important, unimportant, undecided: mismatches examined.
        left_out: mismatches without a label, by reason.
        seconds: wall-clock time, without the start of the engines.
    """

    questions: int = 0
    mined: int = 0
    important: int = 0
    unimportant: int = 0
    undecided: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def examined(self) -> int:
        """Mismatches of which the target was asked."""
        return self.important + self.unimportant + self.undecided

    def count(self, labelled: Iterable[L]) -> Iterator[L]:
        """The same again, counted and timed."""
        start = time.perf_counter()
        for one in labelled:
            yield one
            by_importance = Counter(mismatch.important for mismatch in one.mismatches)
            self.questions += 1
            self.mined += one.mined
            self.important += by_importance[True]
            self.unimportant += by_importance[False]
            self.undecided += by_importance[None]
            self.left_out += one.left_out
            self.seconds = time.perf_counter() - start


def load_names(target: str, draft: str) -> Names:
    """The names and the tokenizer of a pair.

    Raises:
        JudgeError: a tokenizer cannot be loaded.
        JudgeError: the two models do not use the same tokens.
    """
    tokenizer = load_tokenizer(target, "--target")
    if load_tokenizer(draft, "--draft").get_vocab() != tokenizer.get_vocab():
        raise JudgeError(f"{target} and {draft} have different vocabularies: a draft must use its target's tokens.")
    return Names(target, draft, tokenizer)


def label_left(
    questions: Sequence[Question],
    answer_id: Callable[[Question], str],
    names: Names,
    load_pair: Callable[[], VllmPair],
    output: Path,
    max_tokens: int,
    chat_template: str | None,
    label: Callable[[VllmPair, Asked, Write], None],
    spare: int = 0,
) -> int:
    """Labels questions that the file does not hold yet; what came of one is in the file as soon as it is known.

    Args:
        questions: all of them.
        answer_id: of the line that says that a question is done.
        names: of the pair.
        load_pair: starts its engines; called only where a question is left.
        output: a court.jsonl.
        max_tokens: longest answer.
        chat_template: as `vllm serve` takes it; by default the target's own.
        label: is given the pair, what is left, and the function that writes what came of it.
        spare: tokens that the models must have room for behind the longest answer.

    Returns:
        how many questions the file held already.

    Raises:
        JudgeError: a question is too long.
        JudgeError: there is no chat template, or it fails.
        JudgeError: an engine does not start, or dies; the labels so far are kept.
        JudgeError: the file cannot be written.
    """
    with records.Appender[Answer](output) as appender:
        there = {line.record.id for line in records.scan(output, Answer) if line.record}
        missing = [question for question in questions if answer_id(question) not in there]
        before = len(questions) - len(missing)
        if not missing:
            return before
        prompts = [prompt_ids(one.messages, names.tokenizer, chat_template, one.id) for one in missing]

        def write(labelled: Iterable[Labelled]) -> None:
            with bar("questions", len(questions), before) as advance:
                for one in labelled:
                    for answer in one.answers():
                        if answer.id not in there:  # a run that was killed may have written some of a question's lines
                            appender.append(answer)
                    advance()

        with closing(load_pair()) as pair:
            _refuse_too_long(missing, prompts, max_tokens, pair.max_model_len - spare)
            label(pair, list(zip(missing, prompts, strict=True)), write)
    return before


def _refuse_too_long(questions: Sequence[Question], prompts: Sequence[list[int]], max_tokens: int, room: int) -> None:
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    if len(prompts[longest]) + max_tokens > room:
        raise JudgeError(
            f"the question {questions[longest].id!r} has {len(prompts[longest])} tokens, which with --max-tokens "
            f"{max_tokens} is more than the {room} that the pair has room for: lower --max-tokens, or raise "
            "max_model_len in --engine and --draft-engine."
        )
