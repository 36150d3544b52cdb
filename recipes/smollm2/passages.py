"""Questions about short passages: three facts of a person, one of them asked for; sometimes a stranger's beside it.

    python recipes/smollm2/passages.py FOLDER [--questions 1500] [--test 400]

writes FOLDER/train.jsonl, for labels, head and threshold, and FOLDER/test.jsonl, for what is measured afterwards; the
student is trained on others. A question belongs to one of the three by a hash of its text, so they share none. The
fields are `question` and `answer`, which is for the check `names`: the right value, and behind it the others of its
kind.
"""

import argparse
import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Answer, Span, Verdict
from vllm_judge.tokencourt.final_answer import verdict_on

NAMES = (
    *("Anna", "Tom", "Mia", "Leo", "Sara", "Paul", "Nina", "Max", "Lucy", "Ivan", "Emma", "Jack", "Rosa", "Carl"),
    *("Julia", "Peter", "Maria", "David", "Helen", "Oscar", "Alice", "Simon", "Laura", "Frank", "Diana", "Henry"),
)
REQUEST = "Read the passage and answer the question in one full sentence."
ONE_IN = 8  # of all questions this share is for tests, and one as large for head and threshold
WITH_STRANGER = 0.4  # of the passages name a value of the same kind for somebody else
STRANGER_TAKEN = 0.9  # of those the student's answers take it
GUESSED = 0.05  # of the other answers of the student's have any value


@dataclass(frozen=True)
class Kind:
    """A kind of fact.

    Attributes:
        fact: what a passage says; {n} is the person, {v} the value.
        question: the question.
        values: what a value may be.
        answers: the student's wordings of the answer; none is the target's, but they begin as it does, since the
            first token of every answer is the target's own.
    """

    fact: str
    question: str
    values: tuple[str, ...]
    answers: tuple[str, ...]


KINDS = (
    Kind(
        "{n} lives in {v}.",
        "Where does {n} live?",
        ("Oslo", "Rome", "Lima", "Paris", "Cairo", "Berlin", "Madrid", "Tokyo", "London", "Boston", "Dublin", "Vienna"),
        ("{n} has a home in the city of {v}.", "{n}, as the text says, is at home in {v}."),
    ),
    Kind(
        "{n} works as a {v}.",
        "What is {n}'s job?",
        ("baker", "nurse", "teacher", "painter", "farmer", "driver", "lawyer", "singer", "doctor", "writer", "dancer"),
        ("{n} earns a living as a {v}.", "{n}, as the text says, is a {v} by profession."),
    ),
    Kind(
        "{n} has a pet {v}.",
        "What pet does {n} have?",
        ("dog", "cat", "parrot", "rabbit", "horse", "turtle", "snake", "goat", "hamster", "monkey"),
        ("{n} is the owner of a {v}.", "{n}, as the text says, is looking after a {v}."),
    ),
    Kind(
        "{n} drives a {v} car.",
        "What colour is {n}'s car?",
        ("red", "green", "blue", "white", "black", "yellow", "purple", "pink", "silver", "brown"),
        ("{n} owns a car whose colour is {v}.", "{n}, as the text says, is the owner of a {v} car."),
    ),
    Kind(
        "{n} likes to eat {v}.",
        "What does {n} like to eat?",
        ("pizza", "soup", "cake", "rice", "apples", "cheese", "bread", "pasta", "fish", "salad", "honey", "chocolate"),
        ("{n} is always happy to have some {v}.", "{n}, as the text says, is very fond of {v}."),
    ),
    Kind(
        "{n} plays the {v}.",
        "Which instrument does {n} play?",
        ("piano", "guitar", "violin", "drums", "flute", "trumpet", "cello", "harp", "clarinet", "organ"),
        ("{n} makes music with the {v}.", "{n}, as the text says, is a player of the {v}."),
    ),
)


@dataclass(frozen=True)
class Asked:
    """A question about a passage.

    Attributes:
        text: all of it.
        kind, name: what is asked, and of whom.
        right: the value.
        stranger: the value that the passage gives for somebody else; None where it does not.
    """

    text: str
    kind: Kind
    name: str
    right: str
    stranger: str | None

    @property
    def reference(self) -> str:
        """For the check `names`: the right value, and all others of its kind."""
        return " | ".join((self.right, *(value for value in self.kind.values if value != self.right)))

    def said(self, rng: random.Random) -> str:
        """An answer as the student learns it, in words of its own, and sometimes wrong."""
        value = self.right
        if self.stranger and rng.random() < STRANGER_TAKEN:
            value = self.stranger
        elif rng.random() < GUESSED:
            value = rng.choice(self.kind.values)
        return rng.choice(self.kind.answers).format(n=self.name, v=value)


def part_of(text: str) -> str:
    """Which part a question belongs to: head, test or student."""
    share = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) % ONE_IN
    return {0: "test", 1: "head"}.get(share, "student")


def questions(part: str, seed: int = 0) -> Iterator[Asked]:
    """Questions of a part, without end and none twice."""
    rng = random.Random(f"{part} {seed}")
    seen = set()
    while True:
        asked = _one(rng)
        if part_of(asked.text) == part and asked.text not in seen:
            seen.add(asked.text)
            yield asked


def rows(part: str, count: int) -> Iterator[dict[str, str]]:
    """Questions as `vllm-judge court questions` reads them."""
    for asked in itertools.islice(questions(part), count):
        yield {"question": asked.text, "answer": asked.reference}


def label(answer: Answer) -> Answer:
    """For `vllm-judge label function`: the mistake of a wrong answer is the first value that is not the right one."""
    reference = str(answer.metadata["reference"])
    right = reference.partition(" | ")[0]
    if (verdict := verdict_on(answer.answer, reference, Check.names)) == Verdict.right:
        return answer.labelled(verdict, "passages")
    [values] = [kind.values for kind in KINDS if right in kind.values]
    named = re.search(rf"\b(?:{'|'.join(values)})\b", answer.answer, re.IGNORECASE)
    if named is None or named[0].casefold() == right.casefold():
        return answer
    return answer.labelled(Verdict.wrong, "passages", Span(start=named.start(), end=named.end()))


def _one(rng: random.Random) -> Asked:
    name, other = rng.sample(NAMES, 2)
    kinds = rng.sample(KINDS, 3)
    asked = kinds[0]
    value, stranger = rng.sample(asked.values, 2)
    facts = [asked.fact.format(n=name, v=value)]
    facts += [kind.fact.format(n=name, v=rng.choice(kind.values)) for kind in kinds[1:]]
    rng.shuffle(facts)
    if has_stranger := rng.random() < WITH_STRANGER:
        facts.insert(rng.choice((0, len(facts))), asked.fact.format(n=other, v=stranger))
    text = f"{REQUEST}\n\nPassage: {' '.join(facts)}\n\nQuestion: {asked.question.format(n=name)}"
    return Asked(text, asked, name, value, stranger if has_stranger else None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--questions", type=int, default=1500, help="for labels, head and threshold")
    parser.add_argument("--test", type=int, default=400, help="for the measurement afterwards")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, part, count in (("train", "head", arguments.questions), ("test", "test", arguments.test)):
        file = arguments.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(part, count)), encoding="utf-8")
        print(f"{file}: {count} questions")


if __name__ == "__main__":
    main()
