"""Three authors' answers to the demo's word problems, to be replayed."""

import random

from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from vllm_judge.demo import trio
from vllm_judge.demo.answers import answer
from vllm_judge.demo.documents import wrong_number
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import problems, solution_pieces
from vllm_judge.replay.texts import Text, TextLine, tokenized
from vllm_judge.threads import set_threads


def demo_texts(n: int, seed: int, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Three authors' answers to the demo's first `n` fresh word problems of a seed.

    The draft's own answers, and two made by the grammar: a right one in the words that the target rarely uses, and the
    same with one wrong number.
    """
    asked = problems(n, seed, "test")
    prompts = [render_prompt(problem.question) for problem in asked]
    draft = AutoModelForCausalLM.from_pretrained(trio.strict_config()["model"]).eval()
    set_threads(draft)
    rng = random.Random(seed)
    authors: dict[str, list[str]] = {"right, in other words": [], "one number wrong": []}
    for problem in asked:
        pieces = solution_pieces(problem, 1.0, rng)
        authors["right, in other words"].append("".join(pieces))
        index = rng.choice([i for i, slot in enumerate(problem.slots) if slot.is_number])
        pieces[index] = f" {wrong_number(int(pieces[index]), rng)}"
        authors["one number wrong"].append("".join(pieces))
    authors["the draft model"] = [str(tokenizer.decode(ids)) for ids in answer(draft, tokenizer, prompts)]
    return [
        tokenized(TextLine(prompt=prompt, text=text, author=author), tokenizer)
        for author, texts in authors.items()
        for prompt, text in zip(prompts, texts, strict=True)
        if text
    ]
