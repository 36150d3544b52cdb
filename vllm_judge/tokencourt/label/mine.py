"""Mined labels in a court.jsonl: which questions are left, what comes of them, and how fast."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.label.pair import VllmPair
from vllm_judge.tokencourt.label.search import Names, Search, search_all
from vllm_judge.tokencourt.questions import Question
from vllm_judge.tokencourt.tokenizer import load_tokenizer, prompt_ids


@dataclass
class Tally:
    """What a run came to.

    Attributes:
        questions: how many were asked.
        mined: of how many the target's own answer was right, so that there was something to search.
        important, unimportant: mismatches examined.
        left_out: mismatches without a label, by reason.
        seconds: wall-clock time, without the start of the engines.
    """

    questions: int = 0
    mined: int = 0
    important: int = 0
    unimportant: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def examined(self) -> int:
        """Answers that the target finished behind a draft's token."""
        return self.important + self.unimportant

    def count(self, search: Search) -> None:
        """Adds a search that is over."""
        important = sum(mismatch.important for mismatch in search.mismatches)
        self.questions += 1
        self.mined += search.mined
        self.important += important
        self.unimportant += len(search.mismatches) - important
        self.left_out += search.left_out


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
        JudgeError: no question has a reference and a check, or one is too long.
        JudgeError: there is no chat template, or it fails.
        JudgeError: an engine does not start, or dies; the labels so far are kept.
        JudgeError: the file cannot be written.
    """
    checkable = [question for question in questions if question.reference is not None and question.check]
    if not checkable:
        raise JudgeError(
            "no question has a reference and a check: without them nobody can tell whether a final answer changes "
            "(see --reference-field and --check of `court questions`)."
        )
    with records.Appender[Answer](output) as appender:
        there = {line.record.id for line in records.scan(output, Answer) if line.record}
        missing = [question for question in checkable if names.answer_id(question) not in there]
        before = len(checkable) - len(missing)
        if not missing:
            return Outcome(before, len(questions) - len(checkable), Tally(), Tally())
        prompts = [prompt_ids(one.messages, names.tokenizer, chat_template, one.id) for one in missing]

        def searches(count: int) -> Iterator[Search]:
            for question, prompt in zip(missing[:count], prompts[:count], strict=True):
                yield Search(question, prompt, names, max_tokens)

        batched, alone = Tally(), Tally()
        with closing(load_pair()) as pair:
            _refuse_too_long(missing, prompts, max_tokens, pair.max_model_len)
            with bar("questions", len(checkable), before) as advance:
                for search in _counted(batched, search_all(searches(len(missing)), pair, concurrency)):
                    for answer in search.answers():
                        if answer.id not in there:  # a run that was killed may have written some of a question's lines
                            appender.append(answer)
                    advance()
            if naive:  # last, so that what an engine does at its first requests counts against the batched run
                with bar("one by one", min(naive, len(missing))) as advance:
                    for _ in _counted(alone, search_all(searches(naive), replace(pair, prefix_cache=False), 1)):
                        advance()
    return Outcome(before, len(questions) - len(checkable), batched, alone)


def _counted(tally: Tally, searches: Iterable[Search]) -> Iterator[Search]:
    start = time.perf_counter()
    for search in searches:
        yield search
        tally.count(search)
        tally.seconds = time.perf_counter() - start


def _refuse_too_long(questions: Sequence[Question], prompts: Sequence[list[int]], max_tokens: int, room: int) -> None:
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    if len(prompts[longest]) + max_tokens > room:
        raise JudgeError(
            f"the question {questions[longest].id!r} has {len(prompts[longest])} tokens, which with --max-tokens "
            f"{max_tokens} is more than the pair's max_model_len of {room}: lower --max-tokens, or raise max_model_len "
            "in --engine and --draft-engine."
        )
