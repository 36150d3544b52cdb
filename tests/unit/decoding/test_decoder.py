"""The reference decoder against transformers' own generation and against a naive decoder without caches.

It would catch: a cache that goes back one token too far or not far enough, a hidden state read from the row that
verified the token instead of the token's own, a bonus or recovered token in the wrong place, protected tokens let
through by the judge, counts that include the target's own token, and a text that runs on after its end.
"""

import copy
from collections import Counter
from itertools import product

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vllm_judge.decoding.decoder import speculative_decode
from vllm_judge.head import JudgeHead, logit

VOCABULARY, HIDDEN = 61, 32
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5], [3, 5, 8, 9, 7, 9, 3, 2]]
LENGTH = 40


def random_model(seed: int, vocabulary: int = VOCABULARY, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # wide enough for texts that do not run in a circle
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def target() -> LlamaForCausalLM:
    return random_model(0)


@pytest.fixture(scope="module")
def draft(target: LlamaForCausalLM) -> LlamaForCausalLM:
    """The target with noise: it agrees often, not always."""
    torch.manual_seed(1)
    model = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.015 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def head() -> JudgeHead:
    torch.manual_seed(2)
    head = JudgeHead(HIDDEN, use_evidence=True).requires_grad_(False)
    head.weight.normal_()
    head.evidence.normal_(std=0.1)
    return head


@torch.inference_mode()
def forward(model: LlamaForCausalLM, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    output = model.model(torch.tensor([tokens]))
    return model.lm_head(output.last_hidden_state)[0], output.last_hidden_state[0]


def greedy(model: LlamaForCausalLM, tokens: list[int], count: int) -> list[int]:
    text = list(tokens)
    for _ in range(count):
        text.append(int(forward(model, text)[0][-1].argmax()))
    return text[len(tokens) :]


def naive_decode(target, draft, prompt, head, threshold, num_drafts, length, row=1) -> tuple[list[int], list[int], int]:
    """Judge decoding from whole forward passes; `row` = 0 reads the verifying row's hidden state, the wrong one."""
    text = prompt + greedy(target, prompt, 1)
    cycles, judge_only = [], 0
    while len(text) - len(prompt) < length:
        drafts = greedy(draft, text, num_drafts)
        logits, hidden = forward(target, text + drafts)
        start, accepted = len(text), 0
        for i, token in enumerate(drafts):
            verifying = start - 1 + i
            log_probs = logits[verifying].log_softmax(-1)
            entropy = -(log_probs.exp() * log_probs).sum()
            top = log_probs.max()
            evidence = torch.stack([log_probs[token], entropy, top - log_probs[token], top.exp()])
            strict = token == int(logits[verifying].argmax())
            if not strict and not head.score(hidden[verifying + row], evidence) > logit(threshold):
                break
            accepted += 1
            judge_only += not strict
        text += [*drafts[:accepted], int(logits[start - 1 + accepted].argmax())]
        cycles.append(accepted)
    return text[len(prompt) :][:length], cycles, judge_only


@pytest.mark.parametrize("num_drafts", [1, 3, 8])
def test_without_a_judge_the_text_is_the_targets_own(target, draft, num_drafts):
    accepted = []
    options = {"num_speculative_tokens": num_drafts, "max_new_tokens": LENGTH}
    for prompt, decoded in zip(PROMPTS, speculative_decode(target, draft, PROMPTS, **options), strict=True):
        tokens = target.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=LENGTH)
        assert decoded.tokens == tokens[0, len(prompt) :].tolist()
        assert decoded.judge_only == 0
        assert 1 + sum(n + 1 for n in decoded.cycles) >= LENGTH
        accepted += decoded.cycles
    assert {0, num_drafts} <= set(accepted), "the draft must fail at times and succeed at times"


@pytest.mark.parametrize("num_drafts", [1, 4, 7])
def test_a_judge_that_accepts_all_leaves_one_target_token_per_cycle(target, draft, head, num_drafts):
    options = {"num_speculative_tokens": num_drafts, "max_new_tokens": LENGTH, "head": head, "threshold": 0.0}
    for prompt, decoded in zip(PROMPTS, speculative_decode(target, draft, PROMPTS, **options), strict=True):
        expected, strict = greedy(target, prompt, 1), []
        while len(expected) < LENGTH:
            drafts = greedy(draft, prompt + expected, num_drafts)
            rows = forward(target, prompt + expected + drafts)[0].argmax(-1)[-num_drafts - 1 :].tolist()
            strict += [token == row for token, row in zip(drafts, rows, strict=False)]
            expected += [*drafts, rows[-1]]
        assert decoded.tokens == expected[:LENGTH]
        assert set(decoded.cycles) == {num_drafts}
        assert decoded.judge_only == strict.count(False)


def test_a_judge_that_rejects_all_changes_nothing(target, draft, head):
    options = {"num_speculative_tokens": 4, "max_new_tokens": LENGTH}
    judged = speculative_decode(target, draft, PROMPTS, head=head, threshold=1.0, **options)
    assert judged == speculative_decode(target, draft, PROMPTS, **options)


def test_the_judge_reads_the_tokens_own_row(target, draft, head):
    right, wrong, judge_only = [], [], 0
    options = {"num_speculative_tokens": 4, "max_new_tokens": LENGTH, "head": head, "threshold": 0.5}
    for prompt, decoded in zip(PROMPTS, speculative_decode(target, draft, PROMPTS, **options), strict=True):
        found = decoded.tokens, decoded.cycles, decoded.judge_only
        right.append(found == naive_decode(target, draft, prompt, head, 0.5, 4, LENGTH))
        wrong.append(found == naive_decode(target, draft, prompt, head, 0.5, 4, LENGTH, row=0))
        judge_only += decoded.judge_only
    assert all(right)
    assert not any(wrong)
    assert judge_only > 0


def test_the_heads_own_threshold_is_the_default(target, draft, head):
    options = {"num_speculative_tokens": 4, "max_new_tokens": LENGTH, "head": head}
    named = speculative_decode(target, draft, PROMPTS, threshold=head.threshold, **options)
    assert speculative_decode(target, draft, PROMPTS, **options) == named


def test_only_the_strict_test_accepts_protected_tokens(target, draft, head):
    """With every token protected, a judge that accepts all is no judge."""
    options = {"num_speculative_tokens": 4, "max_new_tokens": LENGTH}
    judged = speculative_decode(
        target, draft, PROMPTS, head=head, threshold=0.0, protected_token_ids=range(VOCABULARY), **options
    )
    assert judged == speculative_decode(target, draft, PROMPTS, **options)


def test_the_text_ends_with_the_first_end_of_sequence_token(target, draft):
    text = greedy(target, PROMPTS[0], LENGTH)
    end = text[LENGTH // 2]
    [decoded] = speculative_decode(
        target, draft, PROMPTS[:1], num_speculative_tokens=8, max_new_tokens=LENGTH, eos_token_ids=[end]
    )
    assert decoded.tokens == text[: text.index(end) + 1]


def test_the_judge_never_accepts_an_end_of_sequence_token(target, draft, head):
    """Wherever the text of a judge that accepts all would hold the draft's own tokens, none of them may end it."""
    options = {"num_speculative_tokens": 8, "max_new_tokens": LENGTH, "head": head, "threshold": 0.0}
    free = speculative_decode(target, draft, PROMPTS[:1], **options)[0].tokens
    own = greedy(target, PROMPTS[0], LENGTH)
    ends = [token for token in dict.fromkeys(free) if token not in own]
    assert ends, "the draft must have words that the target has not"
    for end in ends:
        decoded = speculative_decode(target, draft, PROMPTS[:1], eos_token_ids=[end], **options)[0].tokens
        if end in decoded:
            last = forward(target, PROMPTS[0] + decoded[:-1])[0][-1].argmax()
            assert decoded[-1] == end == int(last)


def test_a_text_of_one_token_needs_no_cycle(target, draft):
    [decoded] = speculative_decode(target, draft, PROMPTS[:1], num_speculative_tokens=4, max_new_tokens=1)
    assert (decoded.tokens, decoded.cycles, decoded.judge_only) == (greedy(target, PROMPTS[0], 1), [], 0)


def test_sampling_without_a_judge_follows_the_targets_distribution():
    vocabulary, temperature, samples = 4, 0.7, 600
    target, draft = random_model(3, vocabulary, layers=1), random_model(4, vocabulary, layers=1)
    options = {"num_speculative_tokens": 1, "max_new_tokens": 2, "temperature": temperature}
    decoded = speculative_decode(target, draft, [[1, 2]] * samples, seed=5, **options)
    found = Counter(tuple(one.tokens) for one in decoded)
    expected = {}
    for first, second in product(range(vocabulary), repeat=2):
        rows = (forward(target, [1, 2, first])[0] / temperature).softmax(-1)
        expected[first, second] = float(rows[1, first] * rows[2, second])
    # Total variation of 600 honest draws over 16 pairs is about 0.06; the draft's own choices would give above 0.2.
    assert sum(abs(found[pair] / samples - p) for pair, p in expected.items()) / 2 < 0.1
