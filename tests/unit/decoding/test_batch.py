"""Prompts side by side against one prompt at a time without caches, each step by the oracle of a verification.

It would catch: a text that reads another's row, padding, or what it had taken back; a text in a row that was moved or
copied wrongly; random numbers that depend on the batch; a window counted in columns of the cache instead of the text's
own places; a boolean mask added to scores; a request that is kept back until others are done.
"""

import copy
import functools
from itertools import product

import pytest
import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    TopPLogitsWarper,
)

from vllm_judge.decoding.batch import Request
from vllm_judge.decoding.decoder import decode_under, speculative_decode
from vllm_judge.decoding.rules import Acceptance, Step, all_rules
from vllm_judge.errors import JudgeError
from vllm_judge.kernels.reference import allowed, strict_test, verify

VOCABULARY, NUM_DRAFTS, LENGTH = 61, 5, 24
ENDS, PROTECTED = [7], [9, 11]
PROMPTS = [[3, 1, 4, 1, 5], [9], [5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6], [2, 6], [12, 13, 14], [30, 40, 50, 60]]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def noisy(target: PreTrainedModel) -> PreTrainedModel:
    """A draft for a target: it agrees often, not always."""
    torch.manual_seed(1)
    draft = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return draft


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    torch.manual_seed(0)
    target = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    return target, noisy(target)


def rules() -> list[Acceptance]:
    """Every rule, at the setting in the middle of its grid, so that texts part at many places."""
    return [functools.partial(rule.accepts, **rule.grid[len(rule.grid) // 2]) for rule in all_rules().values()]


@torch.inference_mode()
def alone(models, prompt: list[int], rule: Acceptance, seed: int, temperature: float = 0.0, top_p: float = 1.0):
    """One prompt under one rule, from whole passes: its tokens, its cycles and how much the rule alone accepted."""
    target, draft = models
    protected = torch.zeros(VOCABULARY, dtype=torch.bool)
    protected[[*ENDS, *PROTECTED]] = True
    first = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    text, cycles, judge_only = list(prompt), [], 0
    while True:
        count = NUM_DRAFTS if len(text) > len(prompt) else 0
        drafts, draft_logits = [], torch.empty(0, VOCABULARY)
        for _ in range(count):
            row = draft(torch.tensor([text + drafts])).logits[0, -1:]
            draft_logits = torch.cat([draft_logits, row])
            drafts.append(int(row.argmax()))
        output = target(torch.tensor([text + drafts]), output_hidden_states=True)
        logits, hidden = output.logits[0, -count - 1 :], output.hidden_states[-1][0, -count - 1 :]
        sampling, noise = logits, {}
        if temperature:
            generator = torch.Generator().manual_seed(first + len(text))
            uniform = torch.rand(count + 1, VOCABULARY + 1, generator=generator, dtype=torch.float64).clamp(min=1e-12)
            noise = {"uniform": uniform[:-1, -1], "gumbel": -(-uniform[:, :-1].log()).log()}
            sampling = logits / temperature
            if top_p < 1.0:
                sampling = TopPLogitsWarper(top_p)(None, sampling)
        tokens = torch.tensor(drafts, dtype=torch.long)
        strict = strict_test(sampling[:-1], tokens, temperature=temperature, uniform=noise.get("uniform"))
        permitted = allowed(logits[:-1], tokens, protected)
        accepted = rule(Step(logits, sampling, draft_logits, hidden, tokens, strict)) if drafts else permitted
        scores = torch.where(accepted, torch.inf, -torch.inf)
        result = verify(sampling, tokens, scores, 0.0, permitted, temperature=temperature, **noise)
        if drafts:
            cycles.append(result.num_accepted)
            judge_only += result.judge_only
        text += result.tokens.tolist()
        generated = text[len(prompt) :]
        ends = [place for place, token in enumerate(generated, 1) if token in ENDS]
        if ends or len(generated) >= LENGTH:
            return generated[: min([*ends, LENGTH])], cycles, judge_only


HOW = {"greedy": {}, "sampled": {"temperature": 0.8}, "nucleus": {"temperature": 1.2, "top_p": 0.7}}


@pytest.fixture(scope="module", params=HOW)
def one_by_one(request, models):
    """Options, and what each prompt's every rule comes to."""
    how = HOW[request.param]
    return how, [[alone(models, prompt, rule, seed, **how) for rule in rules()] for seed, prompt in enumerate(PROMPTS)]


def decode(models, how, prompts: list[list[int]], **options) -> list[tuple[int, list[tuple]]]:
    requests = [Request(prompt, rules(), PROMPTS.index(prompt)) for prompt in prompts]
    decoded = decode_under(
        *models,
        requests,
        num_speculative_tokens=NUM_DRAFTS,
        max_new_tokens=LENGTH,
        eos_token_ids=ENDS,
        protected_token_ids=PROTECTED,
        **how,
        **options,
    )
    return [(index, [(run.tokens, run.cycles, run.judge_only) for run in runs]) for index, runs in decoded]


@pytest.mark.parametrize("batch_size", [1, 25, 1000])
def test_a_text_does_not_depend_on_its_batch(models, one_by_one, batch_size):
    """One request at a time, a few whose places others take, all at once."""
    how, expected = one_by_one
    found = decode(models, how, PROMPTS, batch_size=batch_size)
    assert sorted(found) == list(enumerate(expected))
    lengths = {len(tokens) for runs in expected for tokens, _, _ in runs}
    assert len(lengths) > 3, "texts must end at different times"
    assert max(len({tuple(tokens) for tokens, _, _ in runs}) for runs in expected) > 3, "rules must part"


def test_the_order_of_requests_does_not_matter(models, one_by_one):
    how, expected = one_by_one
    found = decode(models, how, PROMPTS[::-1], batch_size=25)
    assert sorted(found) == list(enumerate(expected[::-1]))


def test_a_request_is_there_as_soon_as_it_is_done(models):
    """The second prompt's text ends with its first token; the first one's is still being written."""
    end = speculative_decode(*models, PROMPTS[1:2], num_speculative_tokens=1, max_new_tokens=1)[0].tokens
    [long] = speculative_decode(*models, PROMPTS[:1], num_speculative_tokens=1, max_new_tokens=LENGTH)
    assert end[0] not in long.tokens
    requests = [Request(prompt, rules()[:1]) for prompt in PROMPTS[:2]]
    found = decode_under(*models, requests, num_speculative_tokens=1, max_new_tokens=LENGTH, eos_token_ids=end)
    assert [index for index, _ in found] == [1, 0]


ATTENTION = {
    "window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=6)),
    "window in the second layer": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
}


@pytest.mark.parametrize(("kind", "attention"), product(ATTENTION, ["sdpa", "eager"]))
def test_strict_verification_gives_the_own_text_of_a_target_with_sliding_windows(kind, attention):
    torch.manual_seed(2)
    target = ATTENTION[kind]().eval()
    draft = noisy(target)
    target.set_attn_implementation(attention)
    decoded = speculative_decode(target, draft, PROMPTS, num_speculative_tokens=4, max_new_tokens=LENGTH)
    for prompt, one in zip(PROMPTS, decoded, strict=True):
        own = target.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=LENGTH)[0, len(prompt) :]
        assert one.tokens == own.tolist()
    cycles = [accepted for one in decoded for accepted in one.cycles]
    assert {0, 4} <= set(cycles), "the draft must fail at times and succeed at times"


def test_a_model_that_cannot_take_a_token_back_is_refused(models):
    model = Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]))
    with pytest.raises(JudgeError, match="has layers of conv: the decoder in transformers needs full or sliding"):
        decode((model, models[1]), {}, PROMPTS)
