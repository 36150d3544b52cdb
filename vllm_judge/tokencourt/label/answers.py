"""Labels by the final answer alone."""

from collections.abc import Iterable, Iterator

from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Answer, Verdict
from vllm_judge.tokencourt.final_answer import verdict_on

# An answer's end is missing where the token limit or a provider's filter cut it.
CUT = ("length", "content_filter")


def check_final_answers(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Gives a verdict to answers that have none, where `metadata` holds `reference` and `check`.

    Answers that are labelled already, whose text was cut, that have no reference, or in which no final answer can be
    read come back as they are.

    Raises:
        JudgeError: math-verify, which the checks `number` and `math` need, is not installed.
    """
    for answer in answers:
        verdict = final_verdict(answer) if answer.verdict == Verdict.unknown else Verdict.unknown
        if verdict == Verdict.unknown:
            yield answer
        else:
            yield answer.labelled(verdict, f"final-answer:{answer.metadata['check']}")


def final_verdict(answer: Answer) -> Verdict:
    """Right or wrong by the final answer alone; unknown where that cannot be told.

    Raises:
        JudgeError: as `verdict_on`.
    """
    reference, check = answer.metadata.get("reference"), answer.metadata.get("check")
    if reference is None or check not in list(Check) or answer.metadata.get("finish_reason") in CUT:
        return Verdict.unknown
    return verdict_on(answer.answer, str(reference), Check(check))
