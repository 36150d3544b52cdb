"""Labelled answers as the target reads them: chat template, question, answer, in tokens."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError, MaskError
from vllm_judge.tokencourt.choices import HELD_OUT, Split
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.masks import IGNORED, RIGHT, AfterMistake, label_tokens
from vllm_judge.tokencourt.questions import question_key, split_of
from vllm_judge.tokencourt.tokenizer import prompt_ids

NOTHING_LABELLED = "nothing in them is labelled"


@dataclass(frozen=True)
class LabelledSequence:
    """One prompt with its answer as far as it is labelled, T tokens, of which N are labelled.

    Attributes:
        id: of the answer.
        question: see `question_key`; the same for all answers to a question.
        split: the question's.
        ids: T token ids, the prompt's and then the answer's, up to the last that is labelled.
        answer_start: where the answer begins in `ids`, at least 1.
        rows: N indices into `ids`, ascending: the labelled tokens.
        right: N labels; False is a mistake.
    """

    id: str
    question: str
    split: Split
    ids: list[int]
    answer_start: int
    rows: list[int]
    right: list[bool]


@dataclass(frozen=True)
class Sequences:
    """What a court file comes to: sequences in its order, and by reason the ids of the answers that were left out."""

    sequences: list[LabelledSequence]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Tells these sequences from any others: a SHA-256 of all that goes into the target, and of all labels."""
        digest = hashlib.sha256()
        for one in self.sequences:
            digest.update(repr(one).encode())
        return digest.hexdigest()


def make_sequences(
    answers: Iterable[Answer],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    chat_template: str | None = None,
    after: AfterMistake = AfterMistake.ignored,
    held_out: float = HELD_OUT,
) -> Sequences:
    """Sequences of all answers that have a labelled token.

    Args:
        answers: labelled ones; others are left out.
        tokenizer: the target's, a fast one.
        max_length: answers that need more tokens, the prompt's included, are left out; None is no limit.
        chat_template: as `vllm serve --chat-template` takes it; by default the tokenizer's own.
        after: what tokens after a mistake are.
        held_out: share of questions held out, as `court questions` was given it.

    Raises:
        JudgeError: the tokenizer is not a fast one, or no answer is left.
        JudgeError: there is no chat template, or it fails on a question.
    """
    if not tokenizer.is_fast:
        raise JudgeError(f"{tokenizer.name_or_path} is no fast tokenizer: only those tell where tokens lie.")
    made: list[LabelledSequence] = []
    left_out: dict[str, list[str]] = {}
    for answer in answers:
        try:
            sequence = _sequence(answer, tokenizer, chat_template, after, held_out)
        except MaskError:
            left_out.setdefault("their mistake fits no token", []).append(answer.id)
            continue
        if not sequence.rows:
            left_out.setdefault(NOTHING_LABELLED, []).append(answer.id)
        elif max_length is not None and len(sequence.ids) > max_length:
            left_out.setdefault(f"they have more than {max_length} tokens", []).append(answer.id)
        else:
            made.append(sequence)
    if not made:
        reasons = "; ".join(f"{len(ids)}: {reason}" for reason, ids in left_out.items()) or "the file is empty"
        raise JudgeError(f"there is no answer to train on ({reasons}).")
    return Sequences(made, left_out)


def _sequence(
    answer: Answer,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    after: AfterMistake,
    held_out: float,
) -> LabelledSequence:
    tokens = label_tokens(answer, tokenizer, after)
    prompt = prompt_ids(answer.messages, tokenizer, chat_template, answer.id)
    labelled = [i for i, label in enumerate(tokens.labels) if label != IGNORED]
    needed = labelled[-1] + 1 if labelled else 0
    return LabelledSequence(
        id=answer.id,
        question=question_key(answer.messages),
        split=split_of(answer.messages, held_out),
        ids=[*prompt, *tokens.ids[:needed]],
        answer_start=len(prompt),
        rows=[len(prompt) + i for i in labelled],
        right=[tokens.labels[i] == RIGHT for i in labelled],
    )
