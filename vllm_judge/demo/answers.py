"""Answers of the demo's models in bulk: greedy or sampled, from the question on or from a given beginning."""

from collections.abc import Sequence
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from vllm_judge.demo.grammar import Problem, first_mistake
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import is_correct

BATCH = 100
MAX_NEW_TOKENS = 160


def answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], temperature: float = 0.0
) -> list[list[int]]:
    """The model's continuations of prompts, up to the end-of-sequence token, which is left out."""
    writer: Any = model  # `generate` is annotated for a protocol that no model is declared to follow
    tokenizer.padding_side = "left"
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    answers: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        batch = tokenizer(list(prompts[start : start + BATCH]), return_tensors="pt", padding=True)
        ids = writer.generate(
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


def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Problem], openings: Sequence[str]
) -> dict[str, float]:
    """Greedy answers: the share with the right final answer, and the share that is right in every word."""
    prompts = [render_prompt(problem.question) + opening for problem, opening in zip(asked, openings, strict=True)]
    answers = answer(model, tokenizer, prompts)
    texts = [opening + str(tokenizer.decode(ids)) for opening, ids in zip(openings, answers, strict=True)]
    mistakes = map(first_mistake, asked, texts)
    return {
        "accuracy": sum(map(is_correct, asked, texts)) / len(asked),
        "exact": sum(mistake is None for mistake in mistakes) / len(asked),
    }
