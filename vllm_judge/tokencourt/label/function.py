"""Labels by a function of the user's own: whatever finds a mistake by computing, such as tests, a prover, a parser."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Answer
from vllm_judge.tokencourt.label.llm import needs_label

Labeller = Callable[[Answer], Answer]


def load_function(name: str) -> Labeller:
    """The function MODULE:NAME; modules in the working directory are found too.

    Raises:
        JudgeError: there is no such function.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the module does when it is imported, a syntax error among it
        raise JudgeError(
            f"{name!r} is no function MODULE:NAME that can be imported: {type(error).__name__}: {error}."
        ) from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise JudgeError(f"{name!r} is no function.")
    return found


def label_by_function(answers: Iterable[Answer], name: str) -> Iterator[Answer]:
    """All answers, those that need it with the label that the function MODULE:NAME gives them.

    Raises:
        JudgeError: there is no such function, it fails on an answer, or gives something else than the same answer.
    """
    function = load_function(name)
    for answer in answers:
        if not needs_label(answer):
            yield answer
            continue
        try:
            labelled = function(answer)
        except JudgeError:
            raise
        except Exception as error:
            raise JudgeError(f"{name} fails on {answer.id!r}: {type(error).__name__}: {error}") from error
        if not isinstance(labelled, Answer) or (labelled.id, labelled.answer) != (answer.id, answer.answer):
            raise JudgeError(f"{name} must return the answer that it is given, `answer.labelled(...)`: {answer.id!r}.")
        yield labelled
