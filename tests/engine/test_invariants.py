"""The invariants of judged decoding, on vLLM's own engine and both of its model runners.

What these tests would catch: a judge that reads another row, hears another request's threshold, changes a strict
decision, a random number or a logprob, accepts what the request forbids, or lets the batch, the prefix cache or
chunked prefill into the text. Tokens are compared exactly (fp32, random models whose two best logits are never closer
than 1e-4), logprobs of two engines exactly where both take the same steps, those of another implementation within
1e-3. Those marked every_vllm run on each supported vLLM: the rules of verification, on the three engines of a runner
that they share.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from environments import NUM_DRAFTS
from transformers import LlamaForCausalLM

from vllm_judge import JudgeHead
from vllm_judge.decoding.decoder import speculative_decode
from vllm_judge.kernels.reference import evidence

PROTECTED = [0, tiny.EOS, tiny.SPECIAL]
LENGTH = 24
GREEDY = {"temperature": 0.0, "max_tokens": LENGTH}
# Random numbers depend on the request's seed alone.
SEEDED = {"temperature": 0.9, "seed": 7, "max_tokens": LENGTH}

REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "seeded sampling": SEEDED,
    "top_p": {**SEEDED, "top_p": 0.8},
    "top_k": {**SEEDED, "top_k": 5},
    "penalties": {**GREEDY, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "bad words": {**GREEDY, "bad_words": ["w37", "w5 w125", "w109"]},
    "min_tokens": {**SEEDED, "min_tokens": 12, "stop_token_ids": list(range(3, 60))},
    "grammar": {**GREEDY, "structured_outputs": {"regex": "(w1[0-9]|w2[0-9]){12}"}},
}


@pytest.fixture(scope="session")
def checkpoints(models: Path) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    target, draft = (LlamaForCausalLM.from_pretrained(models / name).eval() for name in ("target", "draft"))
    return target, draft


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["tokens"] for answer in answers]


@pytest.mark.every_vllm
def test_a_head_that_rejects_all_gives_vllms_own_tokens_and_logprobs(engines, runner):
    prompts = tiny.prompts(2)
    wanted = {}
    for judge in (None, "none"):
        engine = engines(runner, judge)
        # One request a batch: then both engines take the very same steps, and even the last bit must agree.
        wanted[judge] = {
            name: [engine.generate([prompt], {**params, "logprobs": 3}) for prompt in prompts]
            for name, params in REQUESTS.items()
        }
    assert wanted["none"] == wanted[None]
    assert any(len(answer["tokens"]) == LENGTH for [answer] in wanted[None]["greedy"])


def simulated(target: LlamaForCausalLM, draft: LlamaForCausalLM, prompt: list[int], length: int) -> list[int]:
    """One token of the target, then the draft's NUM_DRAFTS, again and again: no cache, no verification."""
    text = list(prompt)
    while len(text) < len(prompt) + length:
        for model in [target] + [draft] * NUM_DRAFTS:
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(prompt) : len(prompt) + length]


def test_a_threshold_of_0_gives_one_target_token_and_all_drafts_in_turn(engines, runner, checkpoints):
    prompts = tiny.prompts(4)
    expected = [simulated(*checkpoints, prompt, LENGTH) for prompt in prompts]
    assert not any(token in PROTECTED for text in expected for token in text), "choose other prompts"
    engine = engines(runner, "random")
    assert tokens(engine.generate(prompts, {**GREEDY, "extra_args": {"judge_threshold": 0.0}})) == expected
    assert tokens(engine.generate(prompts, GREEDY)) != expected


@pytest.mark.parametrize("judge", [pytest.param("random", marks=pytest.mark.every_vllm), "random_plain"])
def test_a_real_head_gives_the_reference_decoders_tokens_and_counts(engines, runner, models, checkpoints, judge):
    prompts = tiny.prompts(8)
    head = JudgeHead.from_pretrained(str(models / judge))

    def reference(decoder_head: JudgeHead) -> list[Any]:
        options = {"num_speculative_tokens": NUM_DRAFTS, "max_new_tokens": LENGTH, "eos_token_ids": [tiny.EOS]}
        return speculative_decode(*checkpoints, prompts, head=decoder_head, protected_token_ids=PROTECTED, **options)

    answers, counts = engines(runner, judge).counted(prompts, GREEDY)
    expected = reference(head)
    assert tokens(answers) == [decoded.tokens for decoded in expected]
    assert counts["accepted_tokens"] == sum(sum(decoded.cycles) for decoded in expected)
    assert counts["drafts"] == sum(len(decoded.cycles) for decoded in expected)
    assert counts["judge_only_tokens"] == sum(decoded.judge_only for decoded in expected) > 0
    # The same head on the row before, the one that verifies the token, gives other texts: this test can tell the rows.
    assert sum(a["tokens"] != b.tokens for a, b in zip(answers, reference(PreviousRow(head)), strict=True)) > 4


class PreviousRow:
    """A head that reads, for each draft token, the row before the token's own."""

    def __init__(self, head: JudgeHead):
        self.head, self.threshold = head, head.threshold

    def score(self, hidden: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
        return self.head.score(hidden.roll(1, dims=0), evidence)


ALL = {"extra_args": {"judge_threshold": 0.0}}


@pytest.mark.every_vllm
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}])
def test_nothing_that_the_request_forbids_leaves_even_if_the_judge_accepts_all(engines, runner, sampling):
    engine = engines(runner, "random")
    prompts = tiny.prompts(3, seed=9)
    base = {**sampling, **ALL, "max_tokens": 32}
    free = {token for text in tokens(engine.generate(prompts, base)) for token in text}
    banned = sorted(free - set(PROTECTED))[::2]
    words = [f"w{token}" for token in banned]
    for params in (
        {**base, "bad_words": words},
        {**base, "allowed_token_ids": [token for token in range(3, tiny.VOCAB) if token not in banned]},
    ):
        left = {token for text in tokens(engine.generate(prompts, params)) for token in text}
        assert banned and not left & set(banned)
    regex = engine.generate(prompts, {**base, "structured_outputs": {"regex": "(w1[0-9]){40}"}})
    assert {token for text in tokens(regex) for token in text} <= {*range(10, 20), tiny.EOS}
    for text in tokens(engine.generate(prompts, {**base, "min_tokens": 20, "stop_token_ids": sorted(free)})):
        assert len(text) >= 20 and not set(text[:20]) & free


@pytest.mark.every_vllm
def test_a_thinking_budget_ends_thinking_where_the_judge_accepts_the_drafts_thoughts(engines, runner):
    start, end, budget = 10, 11, 6
    prompts = [[*prompt, start] for prompt in tiny.prompts(4)]
    params = {**GREEDY, **ALL, "thinking_token_budget": budget}
    for text in tokens(engines(runner, "random").generate(prompts, params)):
        assert end in text[: budget + 1]


def test_end_and_stop_and_special_tokens_leave_only_where_the_target_would_have_said_them(engines, runner, checkpoints):
    engine, prompts = engines(runner, "random", draft="eager_draft"), tiny.prompts(8, seed=5)
    stops = list(range(100, tiny.VOCAB))
    answers = engine.generate(prompts, {"temperature": 0.0, "max_tokens": 48, "stop_token_ids": stops, **ALL})
    for prompt, text in zip(prompts, tokens(answers), strict=True):
        logits = checkpoints[0](torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        for token, choice in zip(text, logits.argmax(dim=-1).tolist(), strict=True):
            assert token == choice or token not in {*PROTECTED, *stops}
    assert any(set(text) & {*PROTECTED, *stops} for text in tokens(answers))


@pytest.mark.every_vllm
def test_a_text_does_not_depend_on_the_batch_or_the_prefix_cache(engines, runner):
    engine, prompts = engines(runner, "random"), tiny.prompts(6, length=40)
    for params in (GREEDY, SEEDED):
        alone = [engine.generate([prompt], params)[0]["tokens"] for prompt in prompts]
        together = tokens(engine.generate(prompts, params))
        cached = tokens(engine.generate(prompts[::-1], params))[::-1]
        assert together == alone
        assert cached == alone


def test_chunked_prefill_changes_no_text_and_preemption_lets_no_unjudged_token_through(
    engines, runner, models, checkpoints
):
    # 10 blocks of 32 tokens do not hold 6 requests of 40 + 24 tokens, and a step does not hold a prompt of 100.
    tight = engines(
        runner, "random", max_num_batched_tokens=64, block_size=32, num_gpu_blocks_override=11, max_model_len=128
    )
    [long] = tiny.prompts(1, length=100)
    assert tight.generate([long], GREEDY) == engines(runner, "random").generate([long], GREEDY)

    # A preempted request drops its drafts, and its next token is the target's: the text may differ, its rule may not.
    prompts = tiny.prompts(6, length=40)
    answers, counts = tight.counted(prompts, GREEDY)
    assert counts["num_preemptions"] > 0
    head = JudgeHead.from_pretrained(str(models / "random"))
    for prompt, text in zip(prompts, tokens(answers), strict=True):
        assert all(said_or_judged(*checkpoints, head, prompt, text))


def said_or_judged(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, head: JudgeHead, prompt: list[int], text: list[int]
) -> list[bool]:
    """For each token: is it the target's choice, or the draft's and accepted by the judge?"""
    sequence = torch.tensor([prompt + text])
    with torch.inference_mode():
        output = target(sequence, output_hidden_states=True)
        drafted = draft(sequence).logits[0, len(prompt) - 1 : -1].argmax(dim=-1)
    logits, said = output.logits[0, len(prompt) - 1 : -1], sequence[0, len(prompt) :]
    judged = head.score(output.hidden_states[-1][0, len(prompt) :], evidence(logits, said)) > 0
    unprotected = ~torch.isin(said, torch.tensor(PROTECTED))
    return ((said == logits.argmax(dim=-1)) | ((said == drafted) & judged & unprotected)).tolist()


@pytest.mark.every_vllm
def test_logprobs_are_the_targets(engines, runner, checkpoints):
    prompts = tiny.prompts(3)
    answers = engines(runner, "random").generate(prompts, {**GREEDY, "logprobs": 2, **ALL})
    for prompt, answer in zip(prompts, answers, strict=True):
        text = answer["tokens"]
        expected = checkpoints[0](torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        assert len(answer["logprobs"]) == len(text)
        for row, token, entry in zip(expected, text, answer["logprobs"], strict=True):
            assert str(token) in entry
            for said, logprob in entry.items():
                assert logprob == pytest.approx(float(row[int(said)]), abs=1e-3)


def test_two_tensor_parallel_ranks_give_the_text_of_one(engines, runner):
    prompts = tiny.prompts(4)
    expected, counts = engines(runner, "random").counted(prompts, GREEDY)
    two = engines(runner, "random", tensor_parallel_size=2)
    answers, counts_of_two = two.counted(prompts, GREEDY)
    assert tokens(answers) == tokens(expected)
    assert counts_of_two == counts


def test_strict_and_judged_requests_side_by_side_each_give_their_own_text(engines, runner):
    engine, prompts = engines(runner, "random"), tiny.prompts(8)
    dials: list[dict[str, Any]] = [{}, {"judge": False}, {"judge_threshold": 0.0}, {"judge_threshold": 0.9}] * 2
    params = [{**GREEDY, "extra_args": dial} for dial in dials]
    alone = [engine.generate([prompt], one)[0]["tokens"] for prompt, one in zip(prompts, params, strict=True)]
    assert tokens(engine.generate(prompts, params)) == alone
    strict = engines(runner, None).generate(prompts[1::4], GREEDY)
    assert tokens(strict) == alone[1::4]


@pytest.mark.every_vllm
@pytest.mark.parametrize(
    ("dial", "sentence"),
    [
        ({"judge_threshold": "high"}, "judge_threshold must be a number from 0 to 1, found 'high'."),
        ({"judge_threshold": 1.5}, "judge_threshold must be a number from 0 to 1, found 1.5."),
        ({"judge": "perhaps"}, "judge must be true or false, found 'perhaps'."),
    ],
)
def test_a_malformed_dial_is_refused_and_the_engine_goes_on(engines, runner, dial, sentence):
    engine, prompts = engines(runner, "random"), tiny.prompts(1)
    with pytest.raises(ValueError, match=sentence):
        engine.generate(prompts, {**GREEDY, "extra_args": dial})
    assert engine.generate(prompts, GREEDY)[0]["tokens"]
