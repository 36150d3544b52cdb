"""What a command may write to with `-o`: a new file, or one of its own kind in which nothing is lost."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Verdict
from vllm_judge.tokencourt.questions import Question
from vllm_judge.writable import CHOOSE, check_writable


def claim(output: Path, kind: type[BaseModel], *inputs: Path) -> None:
    """Refuses an output before any work is done for it; a last line that a kill cut off is no reason to.

    Args:
        output: a file, there or not.
        kind: of the records that it is to hold.
        inputs: files that are read while the output grows, so that it must be none of them.

    Raises:
        JudgeError: it is an input, no file, holds other records, or cannot be written.
    """
    if any(output.resolve() == one.resolve() for one in inputs):
        raise JudgeError(f"{output} is what is read, and cannot be what is written: {CHOOSE}.")
    check_writable(output)
    for line in records.scan(output, kind) if output.exists() else ():
        if line.record is None and not line.is_cut_off:
            raise JudgeError(f"{output} holds no {_NAMES.get(kind, 'such records')} ({line.problems[0]}): {CHOOSE}.")


def replace(output: Path, new: Sequence[Answer] | Sequence[Question], labels_are_ours: bool = False) -> None:
    """Writes records in the place of those that a file holds, where none of these is lost.

    Args:
        output: a file, there or not.
        new: what it is to hold.
        labels_are_ours: whether all labels in it come from this command, which makes them anew.

    Raises:
        JudgeError: the file holds what the new records do not, or cannot be written.
    """
    if new and output.exists():
        by_id = {one.id: one for one in new}
        kind = type(new[0])
        there = [line.record for line in records.scan(output, kind) if line.record]
        lost = [old for old in there if _is_lost(old, by_id.get(old.id), labels_are_ours)]
        if lost:
            raise JudgeError(
                f"{output} holds {len(lost)} {_NAMES[kind]} or labels that would be lost, such as {lost[0].id!r}: "
                f"{CHOOSE}."
            )
    records.write(output, new)


_NAMES: dict[type[BaseModel], str] = {Answer: "answers", Question: "questions"}


def _is_lost(old: Answer | Question, new: Answer | Question | None, labels_are_ours: bool) -> bool:
    if isinstance(old, Answer) and isinstance(new, Answer):
        if (old.messages, old.answer) != (new.messages, new.answer):
            return True
        kept = (old.verdict, old.mistake, old.labelled_by) == (new.verdict, new.mistake, new.labelled_by)
        localised = old.mistake is None and new.mistake is not None
        return not (kept or localised or labels_are_ours or old.verdict == Verdict.unknown)
    return new is None or old.model_copy(update={"source": None}) != new.model_copy(update={"source": None})
