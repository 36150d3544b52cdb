"""From characters to tokens: what each token of an answer is for a given tokenizer."""

from dataclasses import dataclass
from enum import StrEnum

from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import MaskError
from vllm_judge.tokencourt.court import Answer, Verdict
from vllm_judge.tokencourt.tokenizer import text_tokens

RIGHT, WRONG, IGNORED = 1, 0, -1


class AfterMistake(StrEnum):
    """What the tokens after the first mistake are: no example of anything, or wrong as well."""

    ignored = "ignored"
    wrong = "wrong"


@dataclass(frozen=True)
class LabelledTokens:
    """N tokens of an answer, as the target writes them after the prompt.

    Attributes:
        ids: N token ids, without special tokens.
        labels: N labels: 1 right, 0 wrong, -1 to be ignored.
    """

    ids: list[int]
    labels: list[int]


def label_tokens(
    answer: Answer, tokenizer: PreTrainedTokenizerBase, after: AfterMistake = AfterMistake.ignored
) -> LabelledTokens:
    """Labels the tokens of an answer.

    Tokens before the first mistake are right; tokens that share a character with it are wrong; what follows depends on
    `after`. All tokens of a right answer are right. Tokens are ignored where the verdict is unknown, where the mistake
    of a wrong answer is not localised, and, outside the mistake, where they begin before `labelled_from`.

    Args:
        answer: the answer and its label.
        tokenizer: a fast one, of the target.

    Raises:
        MaskError: the tokenizer is not a fast one, or the mistake fits no token of it.
    """
    if not tokenizer.is_fast:
        raise MaskError(f"{tokenizer.name_or_path} is no fast tokenizer: only those tell where tokens lie.")
    ids, spans = text_tokens(answer.answer, tokenizer)
    labels = [_label(answer, start, end, after) for start, end in spans]
    if answer.mistake is not None and WRONG not in labels:
        raise MaskError(
            f"the mistake of {answer.id!r}, characters {answer.mistake.start} to {answer.mistake.end}, "
            f"fits no token of the tokenizer {tokenizer.name_or_path}."
        )
    return LabelledTokens(ids, labels)


def _label(answer: Answer, start: int, end: int, after: AfterMistake) -> int:
    mistake = answer.mistake
    # First of all: a token that the mistake only begins in may begin before `labelled_from`.
    if mistake is not None and start < mistake.end and mistake.start < end:
        return WRONG
    if start < answer.labelled_from or answer.verdict == Verdict.unknown:
        return IGNORED
    if answer.verdict == Verdict.right:
        return RIGHT
    if mistake is None:
        return IGNORED
    if end <= mistake.start:
        return RIGHT
    return WRONG if after == AfterMistake.wrong else IGNORED
