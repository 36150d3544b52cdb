"""Answers of the demo's models in bulk: greedy or sampled, from the question on or from a given beginning."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_judge.demo.grammar import Problem, first_mistake
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import is_correct, solution_pieces

BATCH = 100
MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer up to and with its first mistake.

    Attributes:
        prompt_ids: the prompt, and the beginning of a right answer where one was given.
        ids: N tokens that follow, none of them special.
        right: N labels; only the last may be False: that token is the mistake.
    """

    prompt_ids: list[int]
    ids: list[int]
    right: list[bool]


def answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], temperature: float = 0.0
) -> list[list[int]]:
    """The model's continuations of prompts, up to the end-of-sequence token, which is left out."""
    tokenizer.padding_side = "left"
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    answers: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        batch = tokenizer(list(prompts[start : start + BATCH]), return_tensors="pt", padding=True)
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
            **sampling,
        )
        for row in ids[:, batch["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(row[:end])
    return answers


def label_tokens(problem: Problem, pieces: Sequence[str], opening: str = "") -> list[bool]:
    """Labels an answer's tokens up to and with the first mistake.

    Args:
        problem: what is answered.
        pieces: the text of each token, special tokens left out.
        opening: the right beginning of the answer, before the tokens.

    Returns:
        True for every token before the first mistake, then False for the token that holds it. What follows a mistake
        is neither right nor wrong, and has no label.
    """
    mistake = first_mistake(problem, opening + "".join(pieces))
    labels: list[bool] = []
    end = len(opening)
    for piece in pieces:
        end += len(piece)
        right = mistake is None or end <= mistake
        labels.append(right)
        if not right:
            break
    return labels


def labelled_answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Problem],
    openings: Sequence[str],
    temperature: float,
) -> Iterator[LabelledAnswer]:
    """Answers to the problems, each continuing its opening, labelled by the checker."""
    prompts = [render_prompt(problem.question) + opening for problem, opening in zip(asked, openings, strict=True)]
    answers = answer(model, tokenizer, prompts, temperature)
    for problem, opening, prompt, ids in zip(asked, openings, prompts, answers, strict=True):
        right = label_tokens(problem, [tokenizer.decode([token]) for token in ids], opening)
        if right:
            yield LabelledAnswer(tokenizer.encode(prompt), ids[: len(right)], right)


def right_opening(problem: Problem, style_b: float, rng: random.Random, style_c: float = 0.0) -> str:
    """The first slots of a right solution, at least one and never all."""
    pieces = solution_pieces(problem, style_b, rng, style_c)
    return "".join(pieces[: rng.randrange(1, len(pieces))])


def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Problem], openings: Sequence[str]
) -> dict[str, float]:
    """Greedy answers: the share with the right final answer, and the share that is right in every word."""
    prompts = [render_prompt(problem.question) + opening for problem, opening in zip(asked, openings, strict=True)]
    answers = answer(model, tokenizer, prompts)
    texts = [opening + tokenizer.decode(ids) for opening, ids in zip(openings, answers, strict=True)]
    mistakes = map(first_mistake, asked, texts)
    return {
        "accuracy": sum(map(is_correct, asked, texts)) / len(asked),
        "exact": sum(mistake is None for mistake in mistakes) / len(asked),
    }
