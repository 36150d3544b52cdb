"""The acceptance rule in plain PyTorch: the properties that make it the oracle.

Bugs these tests would catch: a judge that accepts where a token is forbidden, protected, a placeholder or its score is
NaN; an accepted token after a rejected one; `judge_only` that counts what the strict test accepts; sampling that, with
the judge off, does not follow the target's distribution; a rejected draft that comes back as the residual's sample;
evidence that is NaN beside a logit of -inf, in the wrong order or in bits.

The distribution is summed, not sampled (the token with the highest w + Gumbel noise is distributed as softmax(w)); what
is left is fp32's rounding, 1e-5. A noisy maximum may lose to one within 1e-3, the rounding of p - q where the two are
close. Evidence is compared with `torch.distributions` within 1e-4, for logits of up to about 30.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_judge.kernels.reference import _residual, allowed, evidence, inside_thinking, thinking, verify
from vllm_judge.kernels.thinking import ThinkingAutomaton
from vllm_judge.kernels.verdicts import BUCKET, FORBIDDEN, JUDGE_ONLY, OUTCOME_MASK, REJECTED, SHADOW

STRICT = math.inf
seeds = st.integers(0, 2**32 - 1)


def random_step(seed, num_drafts=5, vocab_size=7):
    """Target logits, drafts near the target's choice with a placeholder now and then, scores, allowed."""
    rng = torch.Generator().manual_seed(seed)
    target_logits = 2.0 * torch.randn(num_drafts + 1, vocab_size, generator=rng)
    best = target_logits[:num_drafts].topk(2, dim=-1).indices
    drafts = best.gather(-1, torch.randint(0, 2, (num_drafts, 1), generator=rng)).squeeze(-1)
    drafts[torch.rand(num_drafts, generator=rng) < 0.1] = -1
    scores = torch.randn(num_drafts, generator=rng)
    scores[torch.rand(num_drafts, generator=rng) < 0.1] = math.nan
    return target_logits, drafts, scores, torch.rand(num_drafts, generator=rng) < 0.7


def noise(seed, num_drafts=5, vocab_size=7):
    rng = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num_drafts, generator=rng).clamp(min=1e-9)
    gumbel = -torch.empty(num_drafts + 1, vocab_size).exponential_(generator=rng).log()
    return {"uniform": uniform, "gumbel": gumbel}


class TestGreedy:
    @given(seeds)
    def test_prefix_is_what_argmax_or_judge_accept(self, seed):
        target_logits, drafts, scores, is_allowed = random_step(seed)
        got = verify(target_logits, drafts, scores, 0.0, is_allowed, temperature=0.0)
        tokens, judge_only = [], 0
        for logits, draft, score, ok in zip(target_logits, drafts.tolist(), scores.tolist(), is_allowed, strict=False):
            strict = draft == int(logits.argmax())
            if not strict and not (score > 0.0 and ok and draft >= 0):
                break
            tokens.append(draft)
            judge_only += not strict
        assert got.num_accepted == len(tokens)
        assert got.tokens.tolist() == [*tokens, int(target_logits[len(tokens)].argmax())]
        assert got.judge_only == judge_only

    @given(seeds)
    def test_judge_off_is_strict_verification(self, seed):
        """At +inf no score passes, not even +inf."""
        target_logits, drafts, scores, _ = random_step(seed)
        everything = torch.ones(5, dtype=torch.bool)
        got = verify(target_logits, drafts, scores + math.inf, STRICT, everything, temperature=0.0)
        assert got.judge_only == 0
        assert got.tokens.tolist() == target_logits.argmax(-1)[: got.num_accepted + 1].tolist()

    @given(seeds)
    def test_judge_that_likes_all_stops_only_at_what_it_may_not_accept(self, seed):
        target_logits, drafts, _, is_allowed = random_step(seed)
        got = verify(target_logits, drafts, torch.zeros(5), -math.inf, is_allowed, temperature=0.0)
        if got.num_accepted < 5:
            stopped_at = got.num_accepted
            assert not is_allowed[stopped_at] or drafts[stopped_at] < 0
            assert drafts[stopped_at] != target_logits[stopped_at].argmax()

    def test_no_drafts_give_the_bonus_token(self):
        nothing = torch.empty(0)
        got = verify(torch.tensor([[0.0, 1.0]]), nothing.int(), nothing, 0.0, nothing.bool(), temperature=0.0)
        assert (got.tokens.tolist(), got.num_accepted, got.judge_only) == ([1], 0, 0)

    def test_end_of_sequence_is_accepted_strictly_though_protected(self):
        logits, eos = torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([1])
        got = verify(logits, eos, torch.tensor([-9.0]), 0.0, torch.tensor([False]), temperature=0.0)
        assert (got.tokens.tolist(), got.judge_only) == ([1, 0], 0)


class TestSampling:
    @pytest.mark.parametrize("with_draft_logits", [False, True])
    @given(seed=seeds)
    def test_judge_off_samples_the_target(self, with_draft_logits, seed):
        """Leviathan et al., 2023, theorem 1: whatever q is, the token is distributed as p.

        Summed over the drafts that q may propose: min(1, p/q) keeps a draft, the rest falls to the residual.
        """
        _, p, q, log_p, log_q = self.random_distributions(seed)
        if not with_draft_logits:
            q = torch.ones_like(p)
        distribution = torch.zeros_like(p)
        for draft in range(p.shape[0]):
            if not with_draft_logits:
                log_q = torch.full_like(log_p, -math.inf).index_fill(0, torch.tensor(draft), 0.0)
            keep = min(1.0, float(p[draft] / q[draft]))
            token = torch.zeros_like(p)
            token[draft] = keep
            if keep < 1.0:
                token += (1.0 - keep) * _residual(log_p, log_q).softmax(-1)
            if not with_draft_logits:
                torch.testing.assert_close(token, p, atol=1e-5, rtol=0)
            distribution += token * (q[draft] if with_draft_logits else 1 / p.shape[0])
        torch.testing.assert_close(distribution, p, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("with_draft_logits", [False, True])
    @given(seed=seeds)
    def test_a_rejected_draft_is_followed_by_a_sample_of_the_residual(self, with_draft_logits, seed):
        """The token with the highest log max(p - q, 0) + noise, here from the definition, in double precision."""
        target_logits, p, q, _, log_q = self.random_distributions(seed)
        draft = int((q - p).argmax()) if with_draft_logits else seed % p.shape[0]
        if not with_draft_logits:
            q = torch.nn.functional.one_hot(torch.tensor(draft), p.shape[0])
        gumbel = noise(seed, num_drafts=1, vocab_size=p.shape[0])["gumbel"]
        got = verify(
            target_logits,
            torch.tensor([draft]),
            torch.zeros(1),
            STRICT,
            torch.tensor([True]),
            temperature=0.7,
            draft_logits=0.7 * log_q.unsqueeze(0) if with_draft_logits else None,
            uniform=torch.tensor([1.0]),
            gumbel=gumbel,
        )
        assert got.num_accepted == 0
        noisy = (p.double() - q.double()).clamp(min=0).log() + gumbel[0]
        assert noisy[got.tokens[0]] >= noisy.max() - 1e-3

    def random_distributions(self, seed, vocab_size=5):
        """Target logits [2, V] at their temperature; p and q of the first row, and their logarithms."""
        rng = torch.Generator().manual_seed(seed)
        target_logits = 2.0 * torch.randn(2, vocab_size, generator=rng)
        log_p = target_logits[0].log_softmax(-1)
        log_q = (2.0 * torch.randn(vocab_size, generator=rng)).log_softmax(-1)
        return target_logits, log_p.exp(), log_q.exp(), log_p, log_q

    @given(seeds)
    def test_uniform_number_is_compared_with_the_ratio(self, seed):
        """u just below p/q accepts, just above rejects."""
        target_logits, drafts, scores, is_allowed = random_step(seed, num_drafts=1)
        drafts = drafts.clamp(min=0)
        draft_logits = target_logits[:1].flip(-1)
        p, q = target_logits[0].softmax(-1)[drafts], draft_logits[0].softmax(-1)[drafts]
        for factor in (0.999, 1.001):
            u = factor * p / q
            if u < 1.0:
                got = verify(
                    target_logits,
                    drafts,
                    scores,
                    STRICT,
                    is_allowed,
                    temperature=1.0,
                    draft_logits=draft_logits,
                    uniform=u,
                    gumbel=torch.zeros(2, 7),
                )
                assert got.num_accepted == (factor < 1.0)

    @given(seeds)
    def test_judge_changes_no_strict_decision(self, seed):
        """Up to the first token that only the judge accepts, both give the same tokens."""
        target_logits, drafts, scores, is_allowed = random_step(seed)
        step = {"temperature": 1.0, **noise(seed)}
        strict = verify(target_logits, drafts, scores, STRICT, is_allowed, **step)
        judged = verify(target_logits, drafts, scores, 0.0, is_allowed, **step)
        assert judged.num_accepted >= strict.num_accepted
        assert torch.equal(judged.tokens[: strict.num_accepted], strict.tokens[: strict.num_accepted])
        if judged.judge_only == 0:
            assert torch.equal(judged.tokens, strict.tokens)

    @given(seeds)
    def test_a_placeholder_is_followed_by_a_sample_of_p(self, seed):
        target_logits, _, scores, is_allowed = random_step(seed, num_drafts=1)
        step = noise(seed, num_drafts=1)
        got = verify(target_logits, torch.tensor([-1]), scores, -math.inf, is_allowed, temperature=1.0, **step)
        assert got.num_accepted == 0
        assert int(got.tokens[0]) == int((target_logits[0].log_softmax(-1) + step["gumbel"][0]).argmax())

    def test_a_narrower_draft_vocabulary_cuts_the_targets(self):
        target_logits = torch.tensor([[0.0, 1.0, 50.0], [0.0, 1.0, 50.0]])
        got = verify(
            target_logits,
            torch.tensor([1]),
            torch.zeros(1),
            STRICT,
            torch.tensor([True]),
            temperature=1.0,
            draft_logits=torch.zeros(1, 2),
            uniform=torch.tensor([0.99]),
            gumbel=torch.zeros(2, 3),
        )
        assert got.tokens.tolist() == [1, 1]

    def test_noise_is_required(self):
        step = (*random_step(0)[:3], 0.0, torch.ones(5).bool())
        with pytest.raises(ValueError, match="needs `uniform`"):
            verify(*step, temperature=1.0)
        with pytest.raises(ValueError, match="needs `gumbel`"):
            verify(*step, temperature=1.0, uniform=torch.full((5,), 0.5))


class TestShadow:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @given(seed=seeds)
    def test_tokens_are_the_strict_ones_and_the_gain_is_what_the_judge_would_have_added(self, temperature, seed):
        target_logits, drafts, scores, is_allowed = random_step(seed)
        step = {"temperature": temperature, **noise(seed)}
        strict = verify(target_logits, drafts, scores, STRICT, is_allowed, **step)
        judged = verify(target_logits, drafts, scores, 0.0, is_allowed, **step)
        shadow = verify(target_logits, drafts, scores, 0.0, is_allowed, **step, shadow=True)
        assert torch.equal(shadow.tokens, strict.tokens) and shadow.judge_only == 0
        assert shadow.gain == judged.num_accepted - strict.num_accepted
        assert (strict.gain, judged.gain) == (0, 0)
        assert torch.equal(shadow.verdicts, torch.where(judged.verdicts > 0, judged.verdicts + SHADOW, 0))


class TestVerdicts:
    @given(seeds)
    def test_every_draft_up_to_the_first_rejected_one_has_its_verdict(self, seed):
        target_logits, drafts, scores, is_allowed = random_step(seed)
        got = verify(target_logits, drafts, scores, 0.0, is_allowed, temperature=0.0)
        outcomes = (got.verdicts & OUTCOME_MASK).tolist()
        reached = min(got.num_accepted + 1, 5)
        assert sum(outcome == JUDGE_ONLY for outcome in outcomes) == got.judge_only
        assert not any(outcomes[reached:])
        if got.num_accepted < 5:
            proposed, ok = int(drafts[got.num_accepted]) >= 0, bool(is_allowed[got.num_accepted])
            assert outcomes[got.num_accepted] == (0 if not proposed else REJECTED if ok else FORBIDDEN)

    def test_a_request_that_is_not_judged_has_none(self):
        target_logits, drafts, scores, is_allowed = random_step(1)
        got = verify(target_logits, drafts, scores, STRICT, is_allowed, temperature=0.0)
        assert got.verdicts.tolist() == [0] * 5

    @pytest.mark.parametrize(("probability", "bucket"), [(0.001, 0), (0.04, 0), (0.06, 1), (0.52, 10), (0.999, 19)])
    def test_a_decision_of_the_judge_has_its_probabilitys_bucket(self, probability, bucket):
        logits, score = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([probability]).logit()
        for threshold, outcome in ((-100.0, JUDGE_ONLY), (100.0, REJECTED)):
            got = verify(logits, torch.tensor([1]), score, threshold, torch.tensor([True]), temperature=0.0)
            assert got.verdicts.tolist() == [outcome + BUCKET * bucket]


class TestThinking:
    @pytest.mark.parametrize(
        ("tokens", "expected"),
        [
            ([], False),
            ([5], False),
            ([1, 2], True),
            ([2, 1], False),
            ([1, 2, 5, 5], True),
            ([1, 2, 5, 3], False),
            ([1, 2, 3, 1, 2], True),
            ([3, 1, 2, 3, 5], False),
        ],
    )
    def test_the_last_marker_in_whole_decides(self, tokens, expected):
        assert thinking(tokens, start=[1, 2], end=[3]) == expected

    def test_the_token_that_ends_thinking_and_what_follows_it_is_not_the_judges(self):
        inside = inside_thinking([1, 5], torch.tensor([5, 3, 4, 5, 1, 5]), start=[1], end=[3, 4])
        assert inside.tolist() == [True, True, False, False, False, True]

    @given(
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
        st.lists(st.integers(-1, 5), max_size=20),
        st.lists(st.integers(0, 4), max_size=20),
    )
    def test_the_automaton_says_the_same_read_at_once_or_token_by_token(self, start, end, more, tokens):
        """In a vocabulary of 5, and with prompts that hold other numbers, as those of images do."""
        automaton = ThinkingAutomaton(start, end, vocab_size=5)
        prompt = [*more, *tokens]
        states = torch.tensor([automaton.after(more)], dtype=torch.int32)
        for length in range(len(more), len(prompt) + 1):
            assert bool(states & 1) == thinking(prompt[:length], start, end)
            assert int(states) == automaton.after(prompt[:length])
            states = automaton.step(states, torch.tensor(prompt[length : length + 1] or [-1]))


class TestAllowed:
    def test_forbidden_protected_nan_and_placeholder_are_not(self):
        logits = torch.zeros(5, 4)
        logits[1, 1], logits[2, 1] = -math.inf, math.nan
        protected = torch.tensor([False, False, True, False])
        assert allowed(logits, torch.tensor([1, 1, 1, 2, -1]), protected).tolist() == [True, False, False, False, False]


class TestEvidence:
    @given(seeds, st.floats(0.1, 10.0))
    def test_is_what_torch_distributions_say(self, seed, scale):
        rng = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(2, 3, 50, generator=rng)
        tokens = torch.randint(0, 50, (2, 3), generator=rng)
        distribution = torch.distributions.Categorical(logits=logits)
        log_prob = distribution.log_prob(tokens)
        top_prob = distribution.probs.max(-1).values
        expected = torch.stack([log_prob, distribution.entropy(), top_prob.log() - log_prob, top_prob], dim=-1)
        torch.testing.assert_close(evidence(logits, tokens), expected, atol=1e-4, rtol=1e-4)

    def test_probability_zero_adds_no_entropy(self):
        logits = torch.tensor([[0.0, 0.0, -math.inf]])
        expected = torch.tensor([[-math.log(2), math.log(2), 0.0, 0.5]])
        torch.testing.assert_close(evidence(logits, torch.tensor([0])), expected)

    def test_a_token_of_probability_zero_has_infinite_evidence(self):
        log_prob, _, margin, _ = evidence(torch.tensor([0.0, -math.inf]), torch.tensor(1)).tolist()
        assert (log_prob, margin) == (-math.inf, math.inf)

    def test_half_precision_is_widened_first(self):
        logits = torch.linspace(-3, 3, 1000).bfloat16()
        assert torch.equal(evidence(logits, torch.tensor(7)), evidence(logits.float(), torch.tensor(7)))
