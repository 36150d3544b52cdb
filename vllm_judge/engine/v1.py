"""The judge in vLLM's model runner V1, in PyTorch: a boost of the tokens that the judge accepts.

V1's verifier compares a draft token with the target's logits. Where the judge accepts a token, its logit is raised so
far that vLLM's own test passes with certainty, greedy or sampled; afterwards it is put back, so logprobs stay the
target's. All else (acceptance loop, recovered and bonus tokens, random numbers) is vLLM's own code.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from vllm.v1.sample import rejection_sampler as vllm_rejection_sampler
from vllm.v1.sample.rejection_sampler import PLACEHOLDER_TOKEN_ID, RejectionSampler

from vllm_judge.engine import metrics
from vllm_judge.engine.judge import FORCED_LOGIT, Judge, JudgeOnlyCount
from vllm_judge.kernels.reference import evidence

# Beyond any model's logit, so that softmax gives the token all of the probability.
BOOST = 1e8

# What this file builds on in vLLM: (target, parameters), checked before `install`.
EXPECTED = (
    ("vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens", ("self", "grammar_output")),
    (
        "vllm.v1.sample.rejection_sampler:RejectionSampler.forward",
        ("self", "metadata", "draft_probs", "logits", "sampling_metadata"),
    ),
    (
        "vllm.v1.sample.rejection_sampler:RejectionSampler.apply_logits_processors",
        ("self", "logits", "sampling_metadata", "metadata"),
    ),
    (
        "vllm.v1.sample.rejection_sampler:rejection_sample",
        (
            "draft_token_ids",
            "num_draft_tokens",
            "max_spec_len",
            "cu_num_draft_tokens",
            "draft_probs",
            "target_logits",
            "bonus_token_ids",
            "sampling_metadata",
            "synthetic_mode",
            "synthetic_conditional_rates",
            "use_fp64_gumbel",
        ),
    ),
    (
        "vllm.v1.sample.rejection_sampler:generate_uniform_probs",
        ("num_tokens", "num_draft_tokens", "generators", "device"),
    ),
)


def install(runner: Any, judge: Judge) -> None:
    """Gives a V1 runner, on its last pipeline rank, the judge; engine/hooks.py has checked that it fits."""
    sampler = runner.rejection_sampler
    sampler.__class__ = JudgedRejectionSampler
    sampler.judge, sampler.runner = judge, runner
    sample_tokens = runner.sample_tokens

    def judged_sample_tokens(grammar_output: Any) -> Any:
        state = runner.execute_model_state
        sampler.hidden = None if state is None else state.sample_hidden_states
        sampler.judge_only = None
        try:
            output = sample_tokens(grammar_output)
        finally:
            sampler.hidden = None
        return metrics.attach(output, sampler.judge_only)

    runner.sample_tokens = judged_sample_tokens


class JudgedRejectionSampler(RejectionSampler):
    """vLLM's V1 verifier with the judge; made by swapping the class of vLLM's own object (engine/hooks.py).

    Attributes:
        judge: the head on this device; runner: vLLM's V1 model runner.
        hidden: [rows, H], hidden states of the step's logits rows; None outside a step (profiling: nothing is judged).
        judge_only: the step's count of tokens that only the judge accepted; None where nothing was judged.
    """

    judge: Judge
    runner: Any
    hidden: torch.Tensor | None = None
    judge_only: JudgeOnlyCount | None = None
    # From apply_logits_processors to _verify, within one step: the tokens that the judge may accept, [num_drafts] bool.
    _accepts: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        verify = functools.partial(self._verify, vllm_rejection_sampler.rejection_sample)
        with _replaced("rejection_sample", verify):
            return super().forward(*args, **kwargs)

    def apply_logits_processors(self, logits: torch.Tensor, sampling_metadata: Any, metadata: Any) -> torch.Tensor:
        """Called by `forward` with raw fp32 logits [num_drafts, V]. It applies penalties and bans in place;
        temperature, top-k and top-p come later. So evidence is read before it, what constraints forbid after it."""
        hidden = self.hidden
        params = [] if hidden is None else self._sampling_params()
        thresholds = [self.judge.threshold(p) for p in params]
        if hidden is None or min(thresholds, default=torch.inf) == torch.inf:
            return super().apply_logits_processors(logits, sampling_metadata, metadata)
        head, drafts, num_drafts = self.judge.head, metadata.draft_token_ids.long(), metadata.num_draft_tokens
        read = None if head.evidence is None else evidence(logits, drafts)
        score = head.score(hidden[metadata.target_logits_indices + 1], read)
        constrained = super().apply_logits_processors(logits, sampling_metadata, metadata)
        allowed = self._allowed(constrained, drafts, sampling_metadata)
        for stop_ids, span in zip(map(self.judge.stop_token_ids, params), _spans(num_drafts), strict=True):
            if stop_ids:
                allowed[span] &= ~torch.isin(drafts[span], torch.tensor(stop_ids, device=drafts.device))
        per_draft = torch.tensor([thresholds[i] for i in _owners(num_drafts)]).to(score.device, non_blocking=True)
        self._accepts = (score > per_draft) & allowed
        return constrained

    def _sampling_params(self) -> list[Any]:
        return [self.runner.requests[request].sampling_params for request in self.runner.input_batch.req_ids]

    def _allowed(self, constrained: torch.Tensor, drafts: torch.Tensor, sampling_metadata: Any) -> torch.Tensor:
        """[num_drafts] bool: not a placeholder, not forbidden by a constraint, not protected."""
        tokens = drafts.clamp(min=0)
        own = constrained.gather(1, tokens[:, None])[:, 0]
        allowed = (drafts >= 0) & (own > -torch.inf) & ~self.judge.protected[tokens]
        budgets = sampling_metadata.thinking_budget_state_holder
        if budgets is not None and budgets.has_tracked_requests():
            allowed &= constrained.amax(dim=-1) < FORCED_LOGIT
        return allowed

    def _verify(self, rejection_sample: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Around vLLM's function `rejection_sample`, which decides on final logits [num_drafts, V]."""
        accepts, self._accepts = self._accepts, None
        if accepts is None:
            return rejection_sample(*args, **kwargs)
        drafts, num_drafts, _, _, draft_probs, logits, _, sampling_metadata = args
        tokens = drafts.long().clamp(min=0)[:, None]
        uniform = None
        if not sampling_metadata.all_greedy:
            generators = sampling_metadata.generators
            uniform = vllm_rejection_sampler.generate_uniform_probs(len(drafts), num_drafts, generators, drafts.device)
        owners = torch.tensor(_owners(num_drafts), dtype=torch.long).to(drafts.device, non_blocking=True)
        strict = _strict(tokens, owners, draft_probs, logits, sampling_metadata, uniform)
        own = logits.gather(1, tokens)
        logits.scatter_(1, tokens, torch.where(accepts[:, None], BOOST, own))
        # Drawing again would move the requests' generators on: vLLM's function gets the numbers that are drawn already.
        with _replaced("generate_uniform_probs", lambda *_: uniform):
            output = rejection_sample(*args, **kwargs)
        logits.scatter_(1, tokens, own)
        self.judge_only = JudgeOnlyCount(_accepted(output, num_drafts, owners) & ~strict)
        return output


def _strict(
    tokens: torch.Tensor,
    owners: torch.Tensor,
    draft_probs: torch.Tensor | None,
    logits: torch.Tensor,
    sampling_metadata: Any,
    uniform: torch.Tensor | None,
) -> torch.Tensor:
    """[num_drafts] bool: what vLLM's own test says of every draft token; needed only to count the judge's share."""
    greedy = logits.argmax(dim=-1) == tokens[:, 0]
    if uniform is None:
        return greedy
    target_prob = (logits.gather(1, tokens)[:, 0] - logits.logsumexp(dim=-1)).exp()
    draft_prob = 1.0 if draft_probs is None else draft_probs.gather(1, tokens)[:, 0]
    is_greedy = sampling_metadata.temperature == vllm_rejection_sampler.GREEDY_TEMPERATURE
    return torch.where(is_greedy[owners], greedy, target_prob / draft_prob >= uniform)


def _accepted(output: torch.Tensor, num_drafts: list[int], owners: torch.Tensor) -> torch.Tensor:
    """[num_drafts] bool: the draft tokens that left with the step; output is [num_requests, K + 1], padded."""
    lengths = (output != PLACEHOLDER_TOKEN_ID).sum(dim=1) - 1
    positions = torch.tensor([i for n in num_drafts for i in range(n)]).to(output.device, non_blocking=True)
    return positions < lengths[owners]


@contextlib.contextmanager
def _replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replaces a function of vLLM's module, which looks it up by name, while a step is verified."""
    original = getattr(vllm_rejection_sampler, name)
    setattr(vllm_rejection_sampler, name, function)
    try:
        yield
    finally:
        setattr(vllm_rejection_sampler, name, original)


def _owners(num_drafts: list[int]) -> list[int]:
    """For each draft token, its request's place in the batch. (torch's repeat_interleave takes ten times as long.)"""
    return [request for request, n in enumerate(num_drafts) for _ in range(n)]


def _spans(num_drafts: list[int]) -> Iterator[slice]:
    start = 0
    for n in num_drafts:
        yield slice(start, start + n)
        start += n
