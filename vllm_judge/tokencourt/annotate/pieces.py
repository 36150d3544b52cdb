"""An answer as clickable pieces: a tokenizer's tokens, or words."""

import re
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from vllm_judge.tokencourt.court import Span
from vllm_judge.tokencourt.tokenizer import text_tokens


def pieces_of(text: str, tokenizer: PreTrainedTokenizerBase | None) -> list[Span]:
    """Cuts a text into pieces that follow each other without a gap: tokens, or words where no tokenizer is given.

    What nobody could click on stands alone nowhere: tokens that are parts of one character are one piece, and white
    space belongs to the piece before it.
    """
    if not text:
        return []
    if tokenizer is None:
        starts = [match.start() for match in re.finditer(r"\S+", text)]
    else:
        _, offsets = text_tokens(text, tokenizer)
        starts = [start for start, end in offsets if text[start:end].strip()]
    bounds = sorted({0, *starts[1:], len(text)})
    return [Span(start=start, end=end) for start, end in pairwise(bounds)]


def span_of(text: str, pieces: list[Span], first: int, last: int) -> Span:
    """The characters of the pieces `first` to `last`, without the white space around them."""
    start, end = pieces[first].start, pieces[last].end
    inner = text[start:end]
    if not inner.strip():
        return Span(start=start, end=end)
    return Span(start=start + len(inner) - len(inner.lstrip()), end=end - len(inner) + len(inner.rstrip()))


def pieces_in(pieces: list[Span], span: Span) -> tuple[int, int]:
    """The first and the last piece that share a character with a span."""
    touched = [i for i, piece in enumerate(pieces) if piece.start < span.end and span.start < piece.end]
    return touched[0], touched[-1]
