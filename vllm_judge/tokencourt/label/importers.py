"""Labels that others published: ProcessBench's, by human experts, and AutoJudge's, mined from a pair of models."""

import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Message, Span, Text, Verdict
from vllm_judge.tokencourt.label.mismatches import Mismatch, important_answers, text_of

STEP_SEPARATOR = "\n\n"


class ProcessBenchRecord(BaseModel):
    """An answer of ProcessBench, in steps; `label` is the index of the first wrong one, -1 where none is."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Text
    generator: Text
    problem: Text
    steps: list[Text] = Field(min_length=1)
    label: int = Field(ge=-1)
    final_answer_correct: bool


def import_processbench(path: Path) -> Iterator[Answer]:
    """The answers of a ProcessBench file: a wrong one's mistake is its first wrong step as a whole.

    Raises:
        JudgeError: the file is not ProcessBench's; the message names the record and the field.
    """
    try:
        rows = records.json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JudgeError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(rows, list):
        raise JudgeError(f"{path} must hold a JSON list, found {type(rows).__name__}.")
    for number, row in enumerate(rows):
        try:
            record = ProcessBenchRecord.model_validate(row)
        except ValidationError as error:
            raise JudgeError(f"{path}, record {number}: {records.explain(error)}.") from None
        if record.label >= len(record.steps):
            raise JudgeError(f"{path}, record {number}: label {record.label} names none of its steps.")
        yield _from_steps(record)


def _from_steps(record: ProcessBenchRecord) -> Answer:
    mistake = None
    if record.label >= 0:
        start = sum(len(step) + len(STEP_SEPARATOR) for step in record.steps[: record.label])
        mistake = Span(start=start, end=start + len(record.steps[record.label]))
    return Answer(
        id=f"processbench/{record.id}",
        messages=[Message(role="user", content=record.problem)],
        answer=STEP_SEPARATOR.join(record.steps),
        model=record.generator,
        verdict=Verdict.wrong if mistake else Verdict.right,
        mistake=mistake,
        labelled_by="processbench",
        metadata={"final_answer_correct": record.final_answer_correct, "first_wrong_step": record.label},
    )


# What Llama 3.1's chat template writes into the system message by itself: kept, it would be there twice.
_PREAMBLE = re.compile(r"Cutting Knowledge Date: [^\n]*\n(?:Today Date: [^\n]*\n)?\s*")
_TURN = re.compile(r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>(.*?)<\|eot_id\|>", re.DOTALL)
_HEADER_END = "<|end_header_id|>"


class AutoJudgeRecord(BaseModel):
    """One mined question: the final sequence with its prompt, and the mismatches of draft and target.

    A mismatch is (position in the sequence, important, the target's token, the draft's token). Where it is not
    important, the sequence holds the draft's token, else the target's.
    """

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True, frozen=True)

    id: int | str
    changed_token_indices: list[tuple[int, bool, int, int]]
    current_response: torch.Tensor


def import_autojudge(path: Path, tokenizer: PreTrainedTokenizerBase, skipped: Counter[str]) -> Iterator[Answer]:
    """The answers in a file as AutoJudge publishes them: a list written by `torch.save`.

    A record gives its final sequence as a right answer, and for every important mismatch the beginning up to and with
    the draft's token, which is the mistake: only that token is labelled there, the beginning is labelled already.

    PyTorch's restricted reader is used: it makes tensors and plain containers and refuses everything else.

    Args:
        path: the file.
        tokenizer: of the pair that was mined, with Llama 3's chat format.
        skipped: counts the mismatches that cannot be said in characters, by reason.

    Raises:
        JudgeError: the file is not AutoJudge's, holds other objects, or is not in this tokenizer's tokens.
    """
    header_end = tokenizer.get_vocab().get(_HEADER_END)
    if header_end is None:
        raise JudgeError(f"the tokenizer {tokenizer.name_or_path} has no {_HEADER_END}: AutoJudge mined Llama 3.")
    for number, row in enumerate(_load(path)):
        try:
            record = AutoJudgeRecord.model_validate(row)
        except ValidationError as error:
            raise JudgeError(f"{path}, record {number}: {records.explain(error)}.") from None
        ids = record.current_response.flatten().tolist()
        if header_end not in ids:
            raise JudgeError(f"{path}, record {number}: its sequence has no chat turn in this tokenizer's tokens.")
        yield from _from_mismatches(f"autojudge/{path.stem}/{record.id}", record, ids, tokenizer, header_end, skipped)


def _load(path: Path) -> list[Any]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JudgeError(
            f"{path} is refused: only a file of tensors and plain containers, written by torch.save, is read ({reason})"
        ) from None
    if not isinstance(data, list):
        raise JudgeError(f"{path} must hold a list of records, found {type(data).__name__}.")
    return data


def _from_mismatches(
    name: str,
    record: AutoJudgeRecord,
    ids: list[int],
    tokenizer: PreTrainedTokenizerBase,
    header_end: int,
    skipped: Counter[str],
) -> Iterator[Answer]:
    begin = len(ids) - ids[::-1].index(header_end)
    messages = _messages(str(tokenizer.decode(ids[:begin], clean_up_tokenization_spaces=False)))
    while begin < len(ids) and text_of(ids[begin : begin + 1], tokenizer).isspace():
        begin += 1  # the chat template's line breaks
    special = set(tokenizer.all_special_ids)
    end = next((i for i in range(begin, len(ids)) if ids[i] in special), len(ids))
    answer = ids[begin:end]
    common: dict[str, Any] = {"messages": messages, "model": "autojudge", "labelled_by": "autojudge"}
    yield Answer(id=f"{name}/final", answer=text_of(answer, tokenizer), verdict=Verdict.right, **common)
    mismatches = []
    for position, important, target_token, draft_token in record.changed_token_indices:
        if not important:
            continue
        if not begin <= position < end or draft_token in special:
            skipped["the token is not of the answer's text"] += 1
            continue
        if ids[position] != target_token:
            raise JudgeError(f"{name}: the sequence does not hold the target's token at position {position}.")
        mismatches.append(Mismatch(position - begin, important, target_token, draft_token))
    yield from important_answers(name, answer, mismatches, tokenizer, skipped, **common)


def _messages(prompt: str) -> list[Message]:
    messages = []
    for role, content in _TURN.findall(prompt):
        content = (_PREAMBLE.sub("", content) if role == "system" else content).strip()
        if content:
            messages.append(Message(role=role, content=content))
    return messages
