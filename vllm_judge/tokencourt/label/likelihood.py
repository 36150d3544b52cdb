"""SelfJudge's score of the draft tokens that differ from the target's own answer (arXiv 2510.02329), in many answers.

The draft's token is put into the answer, the target's next tokens stay, and the target says how sure it still is of
them. Nobody is asked what the right answer is, so this labels open text too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from vllm_judge.errors import JudgeError
from vllm_judge.special_tokens import special_token_ids
from vllm_judge.tokencourt.answers import metadata_of
from vllm_judge.tokencourt.court import Answer, Verdict
from vllm_judge.tokencourt.label.answers import check_final_answers, final_verdict
from vllm_judge.tokencourt.label.mismatches import NO_TEXT, Mismatch, swapped_answer, text_of
from vllm_judge.tokencourt.label.pair import Place, VllmPair, Written
from vllm_judge.tokencourt.label.search import SPECIAL, Names
from vllm_judge.tokencourt.questions import Question


def fall(before: Sequence[float], after: Sequence[Place], window: int) -> float:
    """How far the target's log-likelihood falls when a token of its greedy answer is another, in nats a token.

        fall = 1/(n + 1) ( log p(y[t] | y[:t]) - log p(d | y[:t])
                           + sum over j = 1..m of  max log p(. | y[:t+j]) - max log p(. | y[:t], d, y[t+1:t+j]) )

    with the target's distribution p behind the question (temperature 1), its answer y with the end token, the draft's
    token d in the place of y[t], the window n, and m, which is n or what the answer has behind t. Below 0 where the
    target is surer behind d.

    It is the score of SelfJudge's public code (naver-aics/SelfJudge, src/compare_important_tokens_gsm8k.py), which
    divides by the m + 1 terms that there are: so the same word weighs the more, the nearer to the end it stands, and on
    the demo that alone takes the area under its ROC curve from 1.000 to 0.947. Here nothing falls behind the end.

    Log p of the answer's own next tokens, in the place of the maxima, is a worse score (0.962): behind "12 in" for
    "12." it falls by all the 20 nats of an end that cannot be there, as right as "in total" is.

    Args:
        before: log p of y[t] and of the m tokens behind it, which are the most probable ones.
        after: what the target says at the same places of the text with d.
        window: n.
    """
    swapped, *behind = after
    return (before[0] - swapped.own + sum(before[1:]) - sum(place.best for place in behind)) / (window + 1)


@dataclass(frozen=True)
class Bounds:
    """What a fall says of the draft's token.

    Attributes:
        right: a fall up to this one is a token that is as good as the target's, in nats.
        wrong: a fall from this one on is a mistake; between the two nothing is said.

    Raises:
        JudgeError: they are the wrong way round.
    """

    right: float
    wrong: float

    def __post_init__(self) -> None:
        if not self.right <= self.wrong:
            raise JudgeError(f"--right-to {self.right:g} must not be above --wrong-from {self.wrong:g}.")

    def important(self, fall: float) -> bool | None:
        """Whether the token is a mistake; None where that is not said."""
        return False if fall <= self.right else True if fall >= self.wrong else None


@dataclass(frozen=True)
class Scored(Mismatch):
    """A mismatch of the target's own answer; `important` is what the bounds say of `fall`."""

    fall: float


_VERDICT = {True: Verdict.wrong, False: Verdict.right, None: Verdict.unknown}


class Scoring:
    """The mismatches of one question's answer: `take` it, then where it is `mined` `compare` it, then `score` them.

    Attributes:
        question: with or without a reference.
        prompt: its tokens.
        ids: tokens of the target's answer, an end token included.
        mined: whether there is anything to score: not where a check says that the target's own answer is wrong.
        mismatches: what was scored, by place.
        left_out: mismatches that have no label, by reason.
    """

    def __init__(self, question: Question, prompt: list[int], names: Names, window: int, bounds: Bounds):
        self.question, self.prompt = question, prompt
        self.ids: list[int] = []
        self.mined = False
        self.mismatches: list[Scored] = []
        self.left_out: Counter[str] = Counter()
        self._names, self._window, self._bounds = names, window, bounds
        self._special = special_token_ids(names.tokenizer)
        self._written = Written([], False)
        self._swaps: list[tuple[int, int]] = []  # places, and the draft's tokens there

    def take(self, written: Written) -> None:
        """Judges the target's own answer, which comes with log p."""
        self._written, self.ids = written, written.ids
        self.mined = final_verdict(self._answer()) != Verdict.wrong

    def compare(self, draft_ids: list[int]) -> None:
        """Takes what the draft would have written at each place of `ids`."""
        for place, (token, own) in enumerate(zip(draft_ids, self.ids, strict=True)):
            if token == own:
                continue
            if token in self._special:
                self.left_out[SPECIAL] += 1
            else:
                self._swaps.append((place, token))

    def texts(self) -> list[tuple[list[int], int]]:
        """For every mismatch the text with the draft's token in it, and how many tokens it has from there on."""
        found = []
        for place, token in self._swaps:
            behind = self.ids[place + 1 : place + 1 + self._window]
            found.append(([*self.prompt, *self.ids[:place], token, *behind], 1 + len(behind)))
        return found

    def score(self, said: Iterable[Sequence[Place]]) -> None:
        """Takes what the target says at the places of these tokens, text by text."""
        for (place, token), after in zip(self._swaps, said, strict=True):
            by = fall(self._written.log_probs[place : place + len(after)], after, self._window)
            self.mismatches.append(Scored(place, self._bounds.important(by), self.ids[place], token, by))

    def answers(self) -> Iterator[Answer]:
        """A line for each mismatch, and last the answer, right throughout, whose id says that all are there.

        Every line of a mismatch says its `fall`; between the bounds its verdict is unknown. An answer that a check
        calls wrong is not localised.
        """
        answer = self._answer()
        if not self.mined:
            yield from check_final_answers([answer])
            return
        method = f"self:{self._names.draft}"
        for mismatch in self.mismatches:
            line = swapped_answer(
                answer.id,
                self.ids,
                mismatch,
                _VERDICT[mismatch.important],
                self._names.tokenizer,
                messages=answer.messages,
                model=answer.model,
                labelled_by=None if mismatch.important is None else method,
                metadata={"fall": round(mismatch.fall, 6)},
            )
            if line is None:
                self.left_out[NO_TEXT] += 1
            else:
                yield line
        yield answer.labelled(Verdict.right, method, scored_by=scored_by(self._window, self._bounds))

    def _answer(self) -> Answer:
        return Answer(
            id=answer_id(self._names, self.question),
            messages=self.question.messages,
            answer=text_of(self.ids, self._names.tokenizer),
            model=self._names.target,
            metadata=metadata_of(self.question, 0.0, "stop" if self._written.ended else "length"),
        )


def answer_id(names: Names, question: Question) -> str:
    """The id of the line that says what came of a question; another one than a mined answer's."""
    return f"{names.answer_id(question)}#self"


def scored_by(window: int, bounds: Bounds) -> dict[str, float]:
    """What an answer's `metadata` says of how its mismatches were labelled."""
    return {"window": window, "right_to": bounds.right, "wrong_from": bounds.wrong}


def score_all(scorings: Iterable[Scoring], pair: VllmPair, max_tokens: int, concurrency: int) -> Iterator[Scoring]:
    """Carries out scorings, `concurrency` at a time; each comes back when its mismatches are scored.

    A round is three batches: the target writes the answers, the draft reads them, and the target reads every text with
    a draft's token in it. Of such a text the prefix cache has what stands before the token, but for a block at most.

    Raises:
        JudgeError: an engine died.
    """
    waiting = iter(scorings)
    while together := list(islice(waiting, concurrency)):
        prompts = [scoring.prompt for scoring in together]
        written = pair.finish(prompts, [max_tokens] * len(prompts), with_log_probs=True)
        for scoring, one in zip(together, written, strict=True):
            scoring.take(one)
        mined = [scoring for scoring in together if scoring.mined]
        if mined:
            read = pair.draft_tokens([scoring.prompt for scoring in mined], [scoring.ids for scoring in mined])
            for scoring, draft_ids in zip(mined, read, strict=True):
                scoring.compare(draft_ids)
        texts = [scoring.texts() for scoring in together]
        every = [one for found in texts for one in found]
        said = iter(pair.log_probs([text for text, _ in every], [count for _, count in every]))
        for scoring, found in zip(together, texts, strict=True):
            scoring.score(list(islice(said, len(found))))
        yield from together
