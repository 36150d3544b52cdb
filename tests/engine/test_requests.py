"""What single requests can and cannot do to an engine, and what is counted of them.

What these tests would catch: a request that stops the engine, a judge that is asked about tokens that nobody proposed,
and a counter that holds what a request never said or misses what another rank verified. Token 0 is an ordinary token
here: in the other tests it is protected, and as a filler would not be seen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from environments import NUM_DRAFTS
from transformers import LlamaForCausalLM

PROTECTED = [tiny.EOS, tiny.SPECIAL]
GREEDY = {"temperature": 0.0, "max_tokens": 24}
ALL = {"extra_args": {"judge_threshold": 0.0}}


@pytest.fixture(scope="session")
def target(models: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(models / "target").eval()


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


@pytest.fixture
def short_drafter(engines: Callable[..., Any], runner: str, models: Path) -> Any:
    """An engine whose drafter sees fewer tokens than its target."""
    drafter = {"method": "draft_model", "model": str(models / "draft_zero"), "max_model_len": 48}
    return engines(runner, "random", drafter=drafter, model=str(models / "target_zero"))


@pytest.mark.parametrize(
    "bad",
    [
        {"extra_args": {"judge_threshold": 2}},
        {"extra_args": {"judge": "perhaps"}},
        {"stop_token_ids": list(range(tiny.VOCAB))},
    ],
    ids=["threshold", "switch", "stop tokens"],
)
def test_a_bad_request_from_a_front_end_that_checks_nothing_fails_alone(short_drafter, bad):
    prompts = tiny.prompts(3)
    wanted = tokens(short_drafter.generate(prompts, GREEDY))
    answers = short_drafter.generate(prompts, [GREEDY, {**GREEDY, **bad}, GREEDY], unchecked=True)
    assert [answer["finish_reason"] for answer in answers] == ["length", "error", "length"]
    assert tokens(answers)[::2] == wanted[::2]
    assert tokens(short_drafter.generate(prompts, GREEDY)) == wanted


def test_drafts_of_a_drafter_that_was_not_asked_are_not_judged(short_drafter, models, target):
    """Where the drafter's context ends, V1 drafts token 0 for the whole batch."""
    draft = LlamaForCausalLM.from_pretrained(models / "draft").eval()
    prompts = [tiny.prompts(1, length=40)[0], *tiny.prompts(2)]
    params = [{**GREEDY, **ALL, "max_tokens": length} for length in (40, 24, 24)]
    for prompt, text in zip(prompts, tokens(short_drafter.generate(prompts, params)), strict=True):
        sequence = torch.tensor([prompt + text])
        said, drafted = (model(sequence).logits[0, len(prompt) - 1 : -1].argmax(dim=-1) for model in (target, draft))
        assert all(token in choices for token, *choices in zip(text, said.tolist(), drafted.tolist(), strict=True))
    # And where the drafter is asked again, so is the judge.
    assert short_drafter.counted(prompts[1:], {**GREEDY, **ALL})[1]["judge_only_tokens"] > 0


def own_choice(target: LlamaForCausalLM, text: list[int]) -> int:
    return int(target(torch.tensor([text])).logits[0, -1].argmax())


def looked_up(text: list[int], longest: int) -> list[int]:
    """What V2's n-gram speculator proposes: what followed the latest earlier place of the longest known ending."""
    for n in range(longest, 0, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return text[start + n :][:NUM_DRAFTS]
    return []


def with_lookup(target: LlamaForCausalLM, prompt: list[int], length: int, longest: int) -> tuple[list[int], int]:
    """The text of a judge that accepts every proposed token, and how many places the drafter left empty."""
    text, empty = [*prompt, own_choice(target, prompt)], 0
    while len(text) < len(prompt) + length:
        proposed = looked_up(text, longest)
        fillers = [text[-1]] * (NUM_DRAFTS - len(proposed))
        empty += len(fillers)
        for place, draft in enumerate([*proposed, *fillers, None]):
            choice = own_choice(target, text)
            judged = place < len(proposed) and draft not in PROTECTED
            text.append(draft if judged and draft is not None else choice)
            if draft != choice and not judged:
                break
    return text[len(prompt) : len(prompt) + length], empty


def test_places_that_the_ngram_drafter_leaves_empty_are_not_judged(engines, models, target):
    drafter = {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3}
    engine = engines("v2", "random", drafter=drafter, model=str(models / "target_zero"))
    prompts = [[*prompt, *prompt[:3]] for prompt in tiny.prompts(4, length=7)]
    expected = [with_lookup(target, prompt, GREEDY["max_tokens"], longest=3) for prompt in prompts]
    assert all(empty > 3 for _, empty in expected)
    assert tokens(engine.generate(prompts, {**GREEDY, **ALL})) == [text for text, _ in expected]
    sampled = {**GREEDY, **ALL, "temperature": 0.9, "seed": 7, "top_k": 20}
    assert tokens(engine.generate(prompts, sampled)) != [text for text, _ in expected]


def test_asynchronous_scheduling_gives_the_same_texts_and_counts(engines, runner):
    """The step that runs while a request ends is dropped by the scheduler, with all that it counted."""
    prompts = tiny.prompts(16)
    params = {"temperature": 0.0, "max_tokens": 6, **ALL}
    answers, counts = engines(runner, "random").counted(prompts, params)
    answers_async, counts_async = engines(runner, "random", asynchronous=True).counted(prompts, params)
    assert tokens(answers_async) == tokens(answers)
    assert 0 < counts_async["judge_only_tokens"] <= counts_async["accepted_tokens"]
    assert counts_async == counts


def test_ranks_that_share_out_the_requests_count_as_one(engines):
    prompts = tiny.prompts(4)
    sharded = engines(
        "v2",
        "random",
        tensor_parallel_size=2,
        enable_batch_sharded_sampling=True,
        worker_extension_cls="gloo_gather.Extension",
    )
    for count in (4, 1):  # with one request, a rank has none
        answers_sharded, counts_sharded = sharded.counted(prompts[:count], GREEDY)
        answers, counts = engines("v2", "random").counted(prompts[:count], GREEDY)
        assert tokens(answers_sharded) == tokens(answers)
        assert counts_sharded == counts and counts["judge_only_tokens"] > 0
