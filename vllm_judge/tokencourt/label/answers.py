"""The final-answer check: is what an answer ends with the reference?"""

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Answer, Verdict

_MARKER = re.compile(r"####|\banswer(?:\s+is\b)?\s*:?", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_NUMBER = re.compile(r"(?:(?<![\d)])-\s?\\?\$?)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?")
_CHOICE = re.compile(r"[\s*(\[{\"'$]*(?:\\text\{|option |choice )?\(?([A-Z])(?![\w'])")


def check_final_answers(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Gives a verdict to answers that have none, where `metadata` holds `reference` and `check`.

    Answers that are labelled already, whose text was cut at the token limit, that have no reference, or in which no
    final answer is found come back as they are.
    """
    for answer in answers:
        verdict = final_verdict(answer) if answer.verdict == Verdict.unknown else Verdict.unknown
        if verdict == Verdict.unknown:
            yield answer
        else:
            yield answer.labelled(verdict, f"final-answer:{answer.metadata['check']}")


def final_verdict(answer: Answer) -> Verdict:
    """Right or wrong by the final answer alone; unknown where that cannot be told."""
    reference, check = answer.metadata.get("reference"), answer.metadata.get("check")
    if reference is None or check not in list(Check) or answer.metadata.get("finish_reason") == "length":
        return Verdict.unknown
    return verdict_on(answer.answer, str(reference), Check(check))


def verdict_on(text: str, reference: str, check: Check) -> Verdict:
    """Right or wrong by the final answer that a text gives; unknown where it gives none."""
    found = _EXTRACT[check](text)
    if found is None:
        return Verdict.unknown
    return Verdict.right if found == _EXTRACT[check](reference) else Verdict.wrong


def final_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer: boxed, behind "answer is" or ####, or the last of all."""
    text = _FRACTION.sub(r"\1/\2", text.replace("\N{MINUS SIGN}", "-"))
    for passage in (*_announced(text), *_NUMBER.findall(text)[-1:]):
        found = _NUMBER.search(passage.rpartition("=")[2])
        if found:
            try:
                return Fraction(re.sub(r"[,\s$\\]", "", found.group()))
            except ZeroDivisionError:
                return None
    return None


def final_choice(text: str) -> str | None:
    """The letter that a text gives as its answer: boxed, behind "answer is" or ####, or alone in the last line."""
    lines = text.strip().splitlines()
    alone = [lines[-1]] if lines and len(re.findall(r"\w+", lines[-1])) == 1 else []
    for passage in (*_announced(text), *alone):
        found = _CHOICE.match(passage)
        if found:
            return found.group(1)
    return None


def final_text(text: str) -> str | None:
    """What a text gives as its answer, boxed, behind "answer is" or ####, or the whole; without case and spacing."""
    passage = next(iter(_announced(text)), text)
    return " ".join(passage.casefold().split()).strip(" .*\"'") or None


_EXTRACT = {Check.number: final_number, Check.choice: final_choice, Check.exact: final_text}


def _announced(text: str) -> list[str]:
    """The passages that a text announces as its answer, the most telling first."""
    boxed = _BOXED.findall(text)
    lines = [text[marker.end() :].split("\n", 1)[0] for marker in _MARKER.finditer(text)]
    return [*boxed[-1:], *reversed(lines)]
