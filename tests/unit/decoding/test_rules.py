"""Each acceptance rule against its formula, written out token by token in plain Python, and how the decoder runs them.

It would catch: a threshold that is inclusive where the source is not, a rule that reads the row after the one that
verifies, the wrong direction or mask of KL, a window of FLy that is one token short or reaches past the drafts, a rule
bound to the nucleus that escapes it (or the reverse), a rule that lets a forbidden token through, and rules that
disturb each other when they are decoded together.
"""

import functools
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vllm_judge.decoding.batch import Request
from vllm_judge.decoding.decoder import decode_under
from vllm_judge.decoding.rules import Step, all_rules
from vllm_judge.decoding.rules.fly import accepts as fly
from vllm_judge.decoding.rules.judge import judge_rule
from vllm_judge.decoding.rules.kl import accepts as kl
from vllm_judge.decoding.rules.mars import accepts as mars
from vllm_judge.decoding.rules.p_threshold import accepts as p_threshold
from vllm_judge.decoding.rules.sglang import accepts as sglang
from vllm_judge.decoding.rules.top_k_delta import accepts as top_k_delta
from vllm_judge.decoding.rules.typical import accepts as typical
from vllm_judge.head import JudgeHead

VOCABULARY, DRAFTS = 11, 7
SEEDS = range(20)


def make_step(seed: int, **fields: torch.Tensor) -> Step:
    """Random logits, wide enough for sure and unsure rows; drafts that are often likely ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(DRAFTS + 1, VOCABULARY, generator=generator)
    draft_logits = logits[:-1] + 1.5 * torch.randn(DRAFTS, VOCABULARY, generator=generator)
    drafts = draft_logits.argmax(-1)
    values = {
        "target_logits": logits,
        "sampling_logits": logits,
        "draft_logits": draft_logits,
        "hidden_states": torch.randn(DRAFTS + 1, 5, generator=generator),
        "drafts": drafts,
        "strict": logits[:-1].argmax(-1) == drafts,
    }
    return Step(**{**values, **fields})


def softmax(row: torch.Tensor) -> list[float]:
    weights = [math.exp(z) for z in row.tolist()]
    return [w / sum(weights) for w in weights]


def rows(step: Step) -> list[tuple[list[float], list[float], int]]:
    """For each draft: what the target samples from, what the draft model said, and the token."""
    return [
        (softmax(step.sampling_logits[i]), softmax(step.draft_logits[i]), token)
        for i, token in enumerate(step.drafts.tolist())
    ]


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def fly_by_hand(step: Step, limit: float, window: int) -> list[bool]:
    strict, accepted = step.strict.tolist(), []
    for i, (p, _, token) in enumerate(rows(step)):
        top_three = sorted(p)[-3:]
        later = [strict[j] if j < DRAFTS else False for j in range(i + 1, i + window + 1)]
        accepted.append(entropy(top_three) >= limit and all(later) and p[token] > 0)
    return accepted


def mars_by_hand(step: Step, ratio: float) -> list[bool]:
    accepted = []
    for logits, token in zip(step.target_logits.tolist(), step.drafts.tolist(), strict=False):
        first, second = sorted(logits)[-1], sorted(logits)[-2]
        accepted.append(first > 0 and logits[token] == second and second / first > ratio)
    return accepted


CASES = {
    "p-threshold": (p_threshold, {"threshold": 0.1}, lambda s: [p[d] > 0.1 for p, _, d in rows(s)]),
    "SGLang threshold": (sglang, {"threshold": 0.1}, lambda s: [p[d] >= 0.1 for p, _, d in rows(s)]),
    "top-k within delta": (
        top_k_delta,
        {"k": 3, "delta": 0.3},
        lambda s: [
            d in sorted(range(VOCABULARY), key=p.__getitem__)[-3:] and p[d] >= max(p) - 0.3 for p, _, d in rows(s)
        ],
    ),
    "typical acceptance": (
        typical,
        {"epsilon": 0.2},
        lambda s: [p[d] > min(0.2, math.sqrt(0.2) * math.exp(-entropy(p))) for p, _, d in rows(s)],
    ),
    "KL": (kl, {"threshold": 0.5}, lambda s: [divergence(p, q) < 0.5 and max(p) <= 0.9 for p, q, _ in rows(s)]),
    "FLy": (fly, {"window": 2, "gate": 0.7}, lambda s: fly_by_hand(s, 0.7, 2)),
    "MARS": (mars, {"ratio": 0.6}, lambda s: mars_by_hand(s, 0.6)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_its_formula(name):
    accepts, setting, by_hand = CASES[name]
    steps = [make_step(seed) for seed in SEEDS]
    found = [accepts(step, **setting).tolist() for step in steps]
    assert found == [by_hand(step) for step in steps]
    assert {True, False} == {one for mask in found for one in mask}


@pytest.mark.parametrize("name", all_rules())
def test_a_rule_accepts_one_draft_as_the_first_of_many_or_alone(name):
    """Only FLy looks at what comes after a draft."""
    rule = all_rules()[name]
    for setting in rule.grid:
        step = make_step(1)
        alone = Step(
            step.target_logits[:2],
            step.sampling_logits[:2],
            step.draft_logits[:1],
            step.hidden_states[:2],
            step.drafts[:1],
            step.strict[:1],
        )
        mask = rule.accepts(step, **setting)
        assert mask.shape == (DRAFTS,) and mask.dtype == torch.bool
        expected = [False] if name == "FLy" else mask[:1].tolist()
        assert rule.accepts(alone, **setting).tolist() == expected


def certain(*tokens: int) -> torch.Tensor:
    """Rows that are sure of a token each."""
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(tokens), VOCABULARY).float()


@pytest.mark.parametrize(
    ("strict", "window", "expected"),
    [
        ([0, 1, 1, 1, 1, 1, 1], 6, [1, 0, 0, 0, 0, 0, 0]),  # the window ends with the drafts
        ([0, 1, 1, 1, 1, 1, 0], 6, [0, 0, 0, 0, 0, 0, 0]),  # its last token fails
        ([0, 1, 1, 1, 1, 1, 0], 5, [1, 0, 0, 0, 0, 0, 0]),
        ([1, 0, 1, 1, 0, 1, 0], 1, [0, 1, 1, 0, 1, 0, 0]),  # mismatches, and matches that do not need the rule
        ([0, 0, 1, 1, 1, 1, 1], 2, [0, 1, 1, 1, 1, 0, 0]),  # a mismatch in the window of another
    ],
)
def test_flys_window_is_all_of_the_following_drafts_and_ends_before_the_last(strict, window, expected):
    """An even distribution keeps the gate open everywhere."""
    step = make_step(0, sampling_logits=torch.zeros(DRAFTS + 1, VOCABULARY), strict=torch.tensor(strict).bool())
    assert fly(step, window=window, gate=0.3).tolist() == [bool(one) for one in expected]


def test_flys_gate_is_shut_where_the_target_is_sure():
    sure = certain(*range(DRAFTS + 1))
    assert not fly(make_step(0, sampling_logits=sure, strict=torch.ones(DRAFTS).bool()), window=1, gate=0.3).any()


def test_kl_is_strict_where_the_target_is_sure_even_of_the_drafts_own_distribution():
    logits = torch.stack([torch.tensor([p, 1 - p] + [0.0] * (VOCABULARY - 2)).log() for p in (0.89, 0.91)])
    step = make_step(
        0,
        target_logits=torch.cat([logits, logits[:1]]),
        draft_logits=logits,
        drafts=torch.tensor([1, 1]),
        strict=torch.tensor([False, False]),
    )
    assert kl(step, threshold=0.1).tolist() == [True, False]


def test_kl_is_infinite_where_the_draft_model_excludes_what_the_target_does_not():
    even = torch.zeros(3, 4)
    excluding = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]] * 2)
    fields = {"drafts": torch.tensor([0, 0]), "strict": torch.tensor([False, False])}
    assert not kl(make_step(0, target_logits=even, draft_logits=excluding, **fields), threshold=1e9).any()
    assert kl(make_step(0, target_logits=excluding[[0, 0, 0]], draft_logits=even[:2], **fields), threshold=0.3).all()


def test_kl_ignores_padding_of_either_vocabulary():
    step = make_step(3)
    padded = torch.nn.functional.pad(step.draft_logits, (0, 5), value=50.0)
    assert torch.equal(kl(make_step(3, draft_logits=padded), threshold=0.5), kl(step, threshold=0.5))


def test_mars_accepts_nothing_where_the_ratio_of_logits_means_nothing():
    logits = torch.tensor([[-1.0, -1.1, -9.0]]).repeat(2, 1)
    step = make_step(0, target_logits=logits, drafts=torch.tensor([1]), strict=torch.tensor([False]))
    assert not mars(step, ratio=0.5).any()
    assert mars(make_step(0, target_logits=-1 / logits, drafts=torch.tensor([1])), ratio=0.9).all()


def test_a_threshold_that_is_met_exactly_is_enough_for_sglang_only():
    even = torch.zeros(2, 4)
    fields = {"drafts": torch.tensor([2]), "strict": torch.tensor([False])}
    step = make_step(0, target_logits=even, sampling_logits=even, **fields)
    assert [p_threshold(step, threshold=t).tolist() for t in (0.25, 0.249)] == [[False], [True]]
    assert [sglang(step, threshold=t).tolist() for t in (0.25, 0.251)] == [[True], [False]]


def test_outside_the_nucleus_only_rules_that_are_not_bound_to_it_accept():
    """The draft has the second probability, 0.3; a nucleus of mass 0.6 is the first token alone."""
    raw = torch.tensor([[0.6, 0.3, 0.1]]).log().repeat(2, 1)
    nucleus = torch.tensor([[0.0, -torch.inf, -torch.inf]]).repeat(2, 1)
    fields = {
        "target_logits": raw,
        "draft_logits": raw[:1],
        "drafts": torch.tensor([1]),
        "strict": torch.tensor([False]),
    }
    free, bound = make_step(0, sampling_logits=raw, **fields), make_step(0, sampling_logits=nucleus, **fields)
    head = JudgeHead(5, use_evidence=True).requires_grad_(False)
    head.evidence.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # scores log p
    head.bias.fill_(2.0)
    unbound = [
        functools.partial(judge_rule("judge", head).accepts, threshold=0.5),
        functools.partial(top_k_delta, k=2, delta=0.4),
        functools.partial(kl, threshold=0.1),
        functools.partial(p_threshold, threshold=0.1),
    ]
    for accepts in [functools.partial(sglang, threshold=0.1), functools.partial(typical, epsilon=0.2), *unbound]:
        assert accepts(free).all()
        assert bool(accepts(bound).all()) == (accepts in unbound)


# --- in the decoder ---

PROMPT, LENGTH, NUM_DRAFTS = [3, 1, 4], 24, 5
SAMPLED = {"temperature": 0.8, "top_p": 0.7}


@pytest.fixture(scope="module")
def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    target, draft = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    draft.load_state_dict({k: v + 0.03 * torch.randn_like(v) for k, v in target.state_dict().items()})
    return target, draft


def decode(models, rules, seed: int = 0, **options):
    [(_, runs)] = decode_under(
        *models,
        [Request(PROMPT, rules, seed)],
        num_speculative_tokens=NUM_DRAFTS,
        max_new_tokens=LENGTH,
        **options,
    )
    return runs


@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_rules_decoded_together_give_what_each_gives_alone(models, how):
    rules = [functools.partial(rule.accepts, **rule.grid[-1]) for rule in all_rules().values()]
    together = decode(models, rules, **how)
    assert together == [decode(models, [rule], **how)[0] for rule in rules]
    assert len({tuple(run.tokens) for run in together}) > 2


@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_what_strict_accepts_is_what_the_step_calls_strict(models, how):
    """A rule that returns it adds nothing, and over the prefix it is what was accepted."""
    seen = []

    def observe(step: Step) -> torch.Tensor:
        seen.append(int(step.strict.long().cumprod(0).sum()))
        return step.strict

    [run] = decode(models, [observe], **how)
    assert run.judge_only == 0
    assert run.cycles == seen
    assert {0, NUM_DRAFTS} <= set(seen) or len(set(seen)) > 2


def test_no_rule_accepts_a_protected_token(models):
    def everything(step: Step) -> torch.Tensor:
        return torch.ones_like(step.strict)

    free, bound = (decode(models, [everything], protected_token_ids=ids)[0] for ids in ((), range(29)))
    assert free.judge_only > 0
    assert bound.judge_only == 0


def test_the_targets_own_tokens_stay_in_the_nucleus_and_a_rules_tokens_need_not(models):
    """The smallest nucleus is the greedy choice: sampling from it is greedy decoding."""

    def everything(step: Step) -> torch.Tensor:
        return torch.ones_like(step.strict)

    rules = [all_rules()["strict"].accepts, everything]
    smallest = decode(models, rules, temperature=0.8, top_p=1e-6)
    assert [run.tokens for run in smallest] == [run.tokens for run in decode(models, rules)]
    assert smallest[1].judge_only > 0


def test_the_target_samples_from_the_fewest_tokens_that_hold_the_mass(models):
    found, expected = [], []

    def observe(step: Step) -> torch.Tensor:
        for raw, sampling in zip(step.target_logits, step.sampling_logits, strict=True):
            p = (raw / 0.8).softmax(-1)
            mass, nucleus = 0.0, set()
            for token in p.argsort(descending=True).tolist():
                if mass < 0.7:
                    nucleus.add(token)
                mass += float(p[token])
            expected.append(nucleus)
            found.append(set(sampling.isfinite().nonzero().flatten().tolist()))
            assert torch.allclose(sampling[sampling.isfinite()], (raw / 0.8)[sampling.isfinite()])
        return step.strict

    decode(models, [observe], **SAMPLED)
    assert found == expected
    assert {1} < {len(nucleus) for nucleus in found}


def test_sampling_is_by_the_seed(models):
    rules = [all_rules()["strict"].accepts]
    texts = [decode(models, rules, seed, **SAMPLED)[0].tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
