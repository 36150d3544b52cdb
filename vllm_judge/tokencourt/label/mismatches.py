"""The mismatches of a draft and a target that AutoJudge (arXiv 2504.20039) and SelfJudge label, said in characters."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from vllm_judge.tokencourt.court import Answer, Span, Verdict

NO_TEXT = "the token is a part of a character"


@dataclass(frozen=True)
class Mismatch:
    """A place of an answer where the draft would have written another token than the target.

    Attributes:
        place: index into the answer's tokens.
        important: whether the draft's token is a mistake; None where that cannot be said.
        target_token, draft_token: their ids.
    """

    place: int
    important: bool | None
    target_token: int
    draft_token: int


def text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Tokens as text, special ones left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def important_answers(
    name: str,
    ids: Sequence[int],
    mismatches: Iterable[Mismatch],
    tokenizer: PreTrainedTokenizerBase,
    skipped: Counter[str],
    **common: Any,
) -> Iterator[Answer]:
    """`swapped_answer` of every important mismatch, whose token is the mistake; others are passed over.

    What stands before is labelled by the line of the final answer.

    Args:
        name, ids, tokenizer, common: as there.
        mismatches: of the answer.
        skipped: counts those that cannot be said in characters, by reason.
    """
    for mismatch in mismatches:
        if not mismatch.important:
            continue
        answer = swapped_answer(name, ids, mismatch, Verdict.wrong, tokenizer, **common)
        if answer is None:
            skipped[NO_TEXT] += 1
        else:
            yield answer


def swapped_answer(
    name: str,
    ids: Sequence[int],
    mismatch: Mismatch,
    verdict: Verdict,
    tokenizer: PreTrainedTokenizerBase,
    **common: Any,
) -> Answer | None:
    """An answer up to and with the draft's token, of which only that token is labelled.

    Args:
        name: the line's id is this and the place.
        ids: tokens of the answer, with the target's token at the mismatch.
        mismatch: where the draft's token goes.
        verdict: on that token.
        tokenizer: of the pair.
        common: the other fields of `Answer`.

    Returns:
        None where the draft's token is no text of its own.
    """
    metadata = common.pop("metadata", {})
    before = text_of(ids[: mismatch.place], tokenizer)
    answer = text_of([*ids[: mismatch.place], mismatch.draft_token], tokenizer)
    if not answer.startswith(before) or "\ufffd" in answer[len(before) :] or answer == before:
        return None
    return Answer(
        id=f"{name}/{mismatch.place}",
        answer=answer,
        verdict=verdict,
        mistake=Span(start=len(before), end=len(answer)) if verdict == Verdict.wrong else None,
        labelled_from=len(before),
        metadata={**metadata, "instead_of": text_of([mismatch.target_token], tokenizer)},
        **common,
    )
