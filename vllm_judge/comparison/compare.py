"""`vllm-judge compare`: the same prompts under every acceptance rule, answer by answer."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from vllm_judge.comparison.answers import Answer, AnswerFolder, Contender
from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.decoding.batch import Decoded, Request
from vllm_judge.decoding.pair import Pair, Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.decoding.rules import Rule, all_rules
from vllm_judge.decoding.rules.judge import judge_rule
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead, fingerprint
from vllm_judge.progress import bar

BASELINE = "strict"


def contenders(rules: dict[str, Rule], wanted: Sequence[str]) -> list[Contender]:
    """What to compare: the baseline first, then what is wanted, or every rule over its grid.

    Args:
        rules: by name.
        wanted: "NAME" for a rule over its grid, "NAME:parameter=value,..." for one setting of it.

    Raises:
        JudgeError: there is no such rule, or it has other parameters.
    """
    found = [Contender(rules[BASELINE], {})]
    for text in wanted or rules:
        name, _, settings = text.partition(":")
        if name not in rules:
            raise JudgeError(f"there is no rule {name!r}: choose from {', '.join(rules)}.")
        rule = rules[name]
        for setting in [_setting(rule, settings)] if settings else rule.grid:
            contender = Contender(rule, setting)
            if contender not in found:
                found.append(contender)
    return found


def _setting(rule: Rule, text: str) -> dict[str, float]:
    names = tuple(rule.grid[0])
    try:
        setting = {name.strip(): float(value) for name, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError:
        setting = {}
    if sorted(setting) != sorted(names):
        raise JudgeError(f"the rule {rule.name!r} is set by {', '.join(names) or 'nothing'}, found {text!r}.")
    return {name: setting[name] for name in names}


def rules_with(heads: Mapping[str, JudgeHead]) -> dict[str, Rule]:
    """All rules by name, with one for each head."""
    return {name: judge_rule(name, head) for name, head in heads.items()} | all_rules()


def identity(pair: Pair, heads: Mapping[str, JudgeHead], how: Sampling, seed: int) -> dict[str, Any]:
    """What answers depend on, see `AnswerFolder`."""
    modules = {"target": pair.target, "draft": pair.draft, **heads}
    return {name: fingerprint(module) for name, module in modules.items()} | {"seed": seed, **vars(how)}


@dataclass(frozen=True)
class Missing:
    """A question, and the contenders, by their indices, of whom there is no answer to it yet."""

    question: Question
    contenders: list[int]


# What answers questions: of each one the contender's index and the generation, as soon as it is there.
Decode = Callable[[Sequence[Missing]], Iterator[tuple[Question, int, Decoded]]]


def measure(
    pair: Pair,
    questions: Sequence[Question],
    chosen: Sequence[Contender],
    how: Sampling,
    seed: int,
    folder: AnswerFolder,
    batch_size: int = BATCH_SIZE,
) -> list[list[Answer]]:
    """Answers every question under every contender with the reference decoder, see `answer_all`.

    Args:
        batch_size: see `decode_under`.
    """
    return answer_all(
        questions,
        chosen,
        folder,
        lambda missing: decode(pair, chosen, missing, how, seed, batch_size),
        pair.tokenizer,
    )


def decode(
    pair: Pair, chosen: Sequence[Contender], missing: Sequence[Missing], how: Sampling, seed: int, batch_size: int
) -> Iterator[tuple[Question, int, Decoded]]:
    """Answers what is missing with the reference decoder, see `Decode`."""
    requests = [
        Request(one.question.prompt_ids, [chosen[i].accepts for i in one.contenders], _seed_of(one.question, seed))
        for one in missing
    ]
    for index, runs in pair.decode(requests, how, batch_size):
        for i, run in zip(missing[index].contenders, runs, strict=True):
            yield missing[index].question, i, run


def answer_all(
    questions: Sequence[Question],
    chosen: Sequence[Contender],
    folder: AnswerFolder,
    decode: Decode,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[Answer]]:
    """Answers every question under every contender, unless the folder has the answer already.

    Args:
        decode: called once, where an answer is missing.
        tokenizer: the target's.

    Returns:
        a list for each contender, with one answer for each question.
    """
    answers = [folder.read(contender) for contender in chosen]
    asked = {question.key: question for question in questions}
    missing = [Missing(one, [i for i, known in enumerate(answers) if one.key not in known]) for one in asked.values()]
    missing = [one for one in missing if one.contenders]
    wanted, left = len(asked) * len(chosen), sum(len(one.contenders) for one in missing)
    with bar(f"answers, {len(chosen)} rules and settings", wanted, wanted - left) as advance:
        for question, i, run in decode(missing) if missing else ():
            text = str(tokenizer.decode(run.tokens, skip_special_tokens=True))
            answer = Answer(
                question=question.key,
                right=question.is_right(text),
                tokens=len(run.tokens),
                cycles=run.cycles,
                judge_only=run.judge_only,
                text=text,
                probabilities=run.probabilities,
            )
            folder.add(chosen[i], answer)
            answers[i][question.key] = answer
            advance()
    return [[known[question.key] for question in questions] for known in answers]


def _seed_of(question: Question, seed: int) -> int:
    """Random numbers of a question: the same whatever else is asked, in whatever order."""
    return int(hashlib.sha256(f"{seed} {question.key}".encode()).hexdigest()[:8], 16)
