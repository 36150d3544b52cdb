"""The mismatches of a draft and a target that AutoJudge labels (arXiv 2504.20039), said in characters."""

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
        important: whether the draft's token changes the final answer.
        target_token, draft_token: their ids.
    """

    place: int
    important: bool
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
    """For every important mismatch the answer up to and with the draft's token, which is the mistake.

    Only that token is labelled: what stands before is labelled by the line of the final answer.

    Args:
        name: the lines' ids are this and the place.
        ids: tokens of the final answer; an important mismatch has the target's token there.
        mismatches: others than important ones are passed over.
        tokenizer: of the pair.
        skipped: counts the mismatches that cannot be said in characters, by reason.
        common: the other fields of `Answer`.
    """
    metadata = common.pop("metadata", {})
    for mismatch in mismatches:
        if not mismatch.important:
            continue
        before = text_of(ids[: mismatch.place], tokenizer)
        answer = text_of([*ids[: mismatch.place], mismatch.draft_token], tokenizer)
        if not answer.startswith(before) or "\ufffd" in answer[len(before) :] or answer == before:
            skipped[NO_TEXT] += 1
            continue
        yield Answer(
            id=f"{name}/{mismatch.place}",
            answer=answer,
            verdict=Verdict.wrong,
            mistake=Span(start=len(before), end=len(answer)),
            labelled_from=len(before),
            metadata={**metadata, "instead_of": text_of([mismatch.target_token], tokenizer)},
            **common,
        )
