"""AutoJudge's search for the draft tokens that matter (arXiv 2504.20039, algorithm 1), in many questions at once.

Where the draft's token differs from the target's, it is swapped in and the target finishes the answer. If the final
answer changes, the mismatch is important: the draft's token is a mistake there, and the target's stays. If not, the
draft's token is as good, and the search goes on behind it in the new answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from vllm_judge.special_tokens import special_token_ids
from vllm_judge.tokencourt.answers import metadata_of
from vllm_judge.tokencourt.court import Answer, Verdict
from vllm_judge.tokencourt.label.answers import check_final_answers, final_verdict
from vllm_judge.tokencourt.label.mismatches import Mismatch, important_answers, text_of
from vllm_judge.tokencourt.label.pair import VllmPair, Written
from vllm_judge.tokencourt.questions import Question

CUT = "with the draft's token the answer does not end within --max-tokens"
SPECIAL = "the draft's token is a special one, which no judge accepts"


@dataclass(frozen=True)
class Names:
    """Who is mined: folders or Hub repositories of the target and of the draft, and the tokenizer they share."""

    target: str
    draft: str
    tokenizer: PreTrainedTokenizerBase

    def answer_id(self, question: Question) -> str:
        """The id of the line that says what came of a question: where it is, the question is done."""
        return f"{question.id}#{self.target}#{self.draft}"


class Search:
    """The search in one question's answers.

    It alternates between two models: `beginning` is for the target to finish, and goes back by `take`; then `ids` is
    for the draft to read where `needs_draft` says so, and goes back by `compare`; then `go_on` makes the next
    beginning.

    Attributes:
        question: with a reference and a check.
        prompt: its tokens.
        beginning: the first tokens of an answer, the last of them the draft's; at first there are none.
        over: whether there is no mismatch left.
        ids: tokens of the answer so far, an end token included.
        mined: whether the target's own answer was right: only then there is anything to search.
        mismatches: what was examined, by place.
        left_out: mismatches that have no label, by reason.
    """

    def __init__(self, question: Question, prompt: list[int], names: Names, max_tokens: int):
        self.question, self.prompt = question, prompt
        self.beginning: list[int] = []
        self.over = False
        self.ids: list[int] = []
        self.mined = False
        self.mismatches: list[Mismatch] = []
        self.left_out: Counter[str] = Counter()
        self._names, self._max_tokens = names, max_tokens
        self._special = special_token_ids(names.tokenizer)
        self._ended = False
        self._draft_ids: list[int] | None = None
        self._examined = 0  # places before this one are done

    @property
    def room(self) -> int:
        """How many tokens the target may add to the beginning."""
        return self._max_tokens - len(self.beginning)

    @property
    def needs_draft(self) -> bool:
        """Whether the answer is a new one, which the draft has not read."""
        return self.mined and self._draft_ids is None

    def take(self, written: Written) -> None:
        """Judges the answer that the target made of the beginning."""
        ids = [*self.beginning, *written.ids]
        right = final_verdict(self._answer(ids, written.ended)) == Verdict.right
        if not self.beginning:
            self.ids, self._ended, self.mined = ids, written.ended, right
        elif not written.ended:
            self.left_out[CUT] += 1
        else:
            place = len(self.beginning) - 1
            self.mismatches.append(Mismatch(place, not right, self.ids[place], ids[place]))
            if right:
                self.ids, self._draft_ids = ids, None

    def compare(self, draft_ids: list[int]) -> None:
        """Takes what the draft would have written at each place of `ids`."""
        self._draft_ids = draft_ids

    def go_on(self) -> None:
        """Swaps in the draft's token at the next mismatch."""
        draft_ids = self._draft_ids or []
        for place in range(self._examined, len(draft_ids)):
            token = draft_ids[place]
            if token == self.ids[place]:
                continue
            if token in self._special:
                self.left_out[SPECIAL] += 1
            elif place + 1 == self._max_tokens:
                self.left_out[CUT] += 1
            else:
                self._examined = place + 1
                self.beginning = [*self.ids[:place], token]
                return
        self.over = True

    def answers(self) -> Iterator[Answer]:
        """The labels: a line for each important mismatch, and last the answer, whose id says that all are there.

        An answer that could not be searched has the verdict of its final answer, and is not localised.
        """
        answer = self._answer(self.ids, self._ended)
        if not self.mined:
            yield from check_final_answers([answer])
            return
        method = f"mine:{self._names.draft}"
        common = {"messages": answer.messages, "model": answer.model, "labelled_by": method}
        yield from important_answers(
            answer.id, self.ids, self.mismatches, self._names.tokenizer, self.left_out, **common
        )
        important = sum(bool(mismatch.important) for mismatch in self.mismatches)
        yield answer.labelled(Verdict.right, method, examined=len(self.mismatches), important=important)

    def _answer(self, ids: list[int], ended: bool) -> Answer:
        return Answer(
            id=self._names.answer_id(self.question),
            messages=self.question.messages,
            answer=text_of(ids, self._names.tokenizer),
            model=self._names.target,
            metadata=metadata_of(self.question, 0.0, "stop" if ended else "length"),
        )


def search_all(searches: Iterable[Search], pair: VllmPair, concurrency: int) -> Iterator[Search]:
    """Carries out searches, `concurrency` at a time; each comes back when it is over.

    Every round is one batch for the target and one for the draft. A search that is over makes room for the next.

    Raises:
        JudgeError: an engine died.
    """
    waiting = iter(searches)
    running: list[Search] = []
    while running := [*running, *islice(waiting, concurrency - len(running))]:
        prompts = [[*search.prompt, *search.beginning] for search in running]
        written = pair.finish(prompts, [search.room for search in running])
        for search, one in zip(running, written, strict=True):
            search.take(one)
        unread = [search for search in running if search.needs_draft]
        if unread:
            read = pair.draft_tokens([search.prompt for search in unread], [search.ids for search in unread])
            for search, draft_ids in zip(unread, read, strict=True):
                search.compare(draft_ids)
        for search in running:
            search.go_on()
        yield from (search for search in running if search.over)
        running = [search for search in running if not search.over]
