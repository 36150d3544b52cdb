"""A judge that may accept inside a request's reasoning part only, on both model runners, against the oracle.

What these tests would catch: a border that lies a token too early or too late, a draft after the end of reasoning that
is judged because the end was accepted in the same cycle, a state that is lost with a preemption or lags behind under
asynchronous scheduling, and a prompt that opens or closes the reasoning itself.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from environments import NUM_DRAFTS
from transformers import LlamaForCausalLM
from verified_text import Scope, verified

from vllm_judge import JudgeHead
from vllm_judge.kernels.reference import inside_thinking, thinking

LENGTH = 40
PROTECTED = [0, tiny.EOS, tiny.SPECIAL]
# What ends reasoning is a word that the target writes now and then.
START, END = [10], [88]
GREEDY = {"temperature": 0.0, "max_tokens": LENGTH}


@pytest.fixture(scope="session")
def checkpoints(models: Path) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    target, draft = (LlamaForCausalLM.from_pretrained(models / name).eval() for name in ("target", "draft"))
    return target, draft


@pytest.fixture(scope="session")
def oracle(models: Path, checkpoints: tuple[LlamaForCausalLM, LlamaForCausalLM]) -> Callable[..., list[int]]:
    """The reference's answer to a prompt, of a judge that accepts all that lies in `scope`."""
    head = JudgeHead.from_pretrained(str(models / "random"))
    protected = torch.isin(torch.arange(tiny.VOCAB), torch.tensor(PROTECTED))

    @functools.cache
    def answer(prompt: tuple[int, ...], scope: Scope) -> list[int]:
        options: dict[str, Any] = {"ends": [tiny.EOS], "threshold": 0.0, "scope": scope}
        return verified(*checkpoints, head, list(prompt), LENGTH, NUM_DRAFTS, protected, **options).tokens

    return lambda prompt, scope: answer(tuple(prompt), scope)


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


INSIDE = functools.partial(inside_thinking, start=START, end=END)


def moved(text: list[int], drafts: torch.Tensor, by: int) -> torch.Tensor:
    """The scope with its borders moved by a token."""
    last = torch.tensor(text[-1:])
    before, after = INSIDE(text[:-1], torch.cat([last, drafts])), INSIDE(text, torch.cat([drafts, last]))
    return before[:-1] if by > 0 else after[1:]


@pytest.fixture
def confined(engines: Callable[..., Any], runner: str) -> Callable[..., Any]:
    """An engine whose judge accepts all of a request's reasoning, and no more."""

    def engine(**options: Any) -> Any:
        markers = {"reasoning_start_str": f"w{START[0]}", "reasoning_end_str": f"w{END[0]}"}
        section = {"scope": "thinking", "threshold": 0.0}
        return engines(runner, "random", section=section, reasoning_config=markers, **options)

    return engine


# Prompts that open the reasoning.
PROMPTS = [[*prompt, *START] for prompt in tiny.prompts(16)]


@pytest.mark.every_vllm
def test_the_judge_accepts_up_to_the_end_of_reasoning_and_not_a_token_beyond(confined, oracle):
    expected = [oracle(prompt, INSIDE) for prompt in PROMPTS]
    ended = [END[0] in text[:-NUM_DRAFTS] for text in expected]
    assert sum(ended) > 2 and not all(ended)
    assert tokens(confined().generate(PROMPTS, GREEDY)) == expected
    for by in (1, -1):
        assert expected != [oracle(prompt, functools.partial(moved, by=by)) for prompt in PROMPTS]


@pytest.mark.every_vllm
def test_prompts_may_open_and_close_the_reasoning_themselves(confined, oracle):
    openings = {
        "never opened": lambda prompt: prompt,
        "opened": lambda prompt: [*START, *prompt],
        "closed": lambda prompt: [*START, *prompt, *END, 20],
        "opened again": lambda prompt: [*START, *prompt, *END, *START, 20],
    }
    engine = confined()
    for name, opening in openings.items():
        prompts = [opening(prompt) for prompt in tiny.prompts(4, seed=5)]
        found = tokens(engine.generate(prompts, GREEDY))
        assert found == [oracle(prompt, INSIDE) for prompt in prompts]
        strict = tokens(engine.generate(prompts, {**GREEDY, "extra_args": {"judge": False}}))
        if name.startswith("opened"):
            assert found != strict
        for prompt, text, plain in zip(prompts, found, strict, strict=True):
            # A prompt of random words, or an answer, may open reasoning of its own.
            assert text == plain or thinking(prompt, START, END) or START[0] in text


def test_a_request_chooses_its_scope_whatever_runs_beside_it(confined, oracle):
    everywhere = {**GREEDY, "extra_args": {"judge_scope": "everywhere"}}
    shadow = {**GREEDY, "extra_args": {"judge_mode": "shadow"}}
    params = [GREEDY, everywhere, shadow, GREEDY] * 4
    scopes = [INSIDE, lambda _, drafts: drafts >= 0, lambda _, drafts: drafts < 0, INSIDE] * 4
    expected = [oracle(prompt, scope) for prompt, scope in zip(PROMPTS, scopes, strict=True)]
    assert tokens(confined().generate(PROMPTS, params)) == expected


def test_asynchronous_scheduling_moves_no_border(confined, oracle):
    expected = [oracle(prompt, INSIDE) for prompt in PROMPTS]
    assert tokens(confined(asynchronous=True).generate(PROMPTS, GREEDY)) == expected


def test_no_unjudged_token_leaves_after_the_end_of_reasoning_though_requests_are_preempted(confined, checkpoints):
    # 10 blocks of 32 tokens do not hold 6 requests of 40 + 40 tokens.
    tight = confined(max_num_batched_tokens=64, block_size=32, num_gpu_blocks_override=11, max_model_len=128)
    prompts = [[*prompt, *START] for prompt in tiny.prompts(8, length=39)]
    answers, counts = tight.counted(prompts, GREEDY)
    assert counts["num_preemptions"] > 0 and counts["judge_only_tokens"] > 0
    target, draft = checkpoints
    strict = 0
    for prompt, text in zip(prompts, tokens(answers), strict=True):
        sequence = torch.tensor([prompt + text])
        said, drafted = (model(sequence).logits[0, len(prompt) - 1 : -1].argmax(dim=-1) for model in (target, draft))
        for i, token in enumerate(text):
            before = [*prompt, *text[:i]]
            inside = thinking(before, START, END) and thinking([*before, token], START, END)
            assert token == said[i] or (inside and token == drafted[i])
            strict += not inside and drafted[i] != said[i]
    assert strict > 0
