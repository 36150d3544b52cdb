"""The demo's word problems as questions to compare rules on."""

import functools
import hashlib

from transformers import PreTrainedTokenizerBase

from vllm_judge.decoding.questions import Question
from vllm_judge.demo.choices import World
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import is_correct, problems


def demo_questions(n: int, seed: int, tokenizer: PreTrainedTokenizerBase, world: World) -> list[Question]:
    """The first `n` fresh word problems of a seed, of a world that embedded models know."""
    return [
        Question(
            hashlib.sha256(problem.question.encode()).hexdigest()[:16],
            tokenizer.encode(render_prompt(problem.question)),
            functools.partial(is_correct, problem),
        )
        for problem in problems(n, seed, "test", world)
    ]
