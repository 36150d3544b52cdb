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
from vllm.v1.sample.rejection_sampler import RejectionSampler

from vllm_judge.engine import metrics
from vllm_judge.engine.dial import STRICT, Dial
from vllm_judge.engine.judge import FORCED_LOGIT, Judge, JudgeOnlyCounts
from vllm_judge.engine.output_layer import OutputLayer
from vllm_judge.engine.row_blocks import by_row
from vllm_judge.kernels.reference import allowed, evidence

# Beyond any model's logit, so that softmax gives the token all of the probability.
BOOST = 1e8


def install(runner: Any, judge: Judge, layer: OutputLayer) -> None:
    """Gives a V1 runner, on its last pipeline rank, the judge; configuration.py has checked that it fits."""
    sampler = runner.rejection_sampler
    sampler.__class__ = JudgedRejectionSampler
    sampler.judge, sampler.runner = judge, runner
    sampler.unproposed = set()
    execute_model, sample_tokens = runner.execute_model, runner.sample_tokens
    propose_draft_token_ids = runner.propose_draft_token_ids

    def judged_execute_model(*args: Any, **kwargs: Any) -> Any:
        # The rows to sample from pass through the output layer here, prompt logprobs and dummy runs elsewhere.
        with layer.inputs() as seen:
            output = execute_model(*args, **kwargs)
        sampler.hidden = seen[0] if seen else None
        return output

    def judged_sample_tokens(grammar_output: Any) -> Any:
        sampled = runner.execute_model_state is not None
        sampler.judge_only, sampler.proposed = None, False
        try:
            output = sample_tokens(grammar_output)
        finally:
            sampler.hidden = None
        if sampled:
            sampler.remember_fillers()
        return metrics.attach(output, sampler.judge_only)

    def judged_propose_draft_token_ids(*args: Any, **kwargs: Any) -> Any:
        sampler.proposed = True
        return propose_draft_token_ids(*args, **kwargs)

    runner.execute_model, runner.sample_tokens = judged_execute_model, judged_sample_tokens
    runner.propose_draft_token_ids = judged_propose_draft_token_ids


class JudgedRejectionSampler(RejectionSampler):
    """vLLM's V1 verifier with the judge; made by swapping the class of vLLM's own object (worker.py).

    Attributes:
        judge: the head on this device; runner: vLLM's V1 model runner.
        hidden: [rows, H], hidden states of the step's logits rows; None outside a step (profiling: nothing is judged).
        judge_only: the step's counts of tokens that only the judge accepted; None where nothing was judged.
        proposed: whether the drafter has been asked in this step.
        unproposed: the requests whose latest drafts no drafter proposed, see `remember_fillers`.
    """

    judge: Judge
    runner: Any
    hidden: torch.Tensor | None = None
    judge_only: JudgeOnlyCounts | None = None
    proposed: bool
    unproposed: set[str]
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
        dials = [] if hidden is None else self._dials()
        thresholds = tuple(dial.threshold for dial in dials)
        if hidden is None or min(thresholds, default=torch.inf) == torch.inf:
            return super().apply_logits_processors(logits, sampling_metadata, metadata)
        head, drafts, num_drafts = self.judge.head, metadata.draft_token_ids.long(), metadata.num_draft_tokens
        read = None if head.evidence is None else by_row(evidence, logits, drafts)
        score = head.score(hidden[metadata.target_logits_indices + 1], read)
        constrained = super().apply_logits_processors(logits, sampling_metadata, metadata)
        permitted = allowed(constrained, drafts, self.judge.protected)
        budgets = sampling_metadata.thinking_budget_state_holder
        if budgets is not None and budgets.has_tracked_requests():
            permitted &= constrained.amax(dim=-1) < FORCED_LOGIT
        for dial, span in zip(dials, _spans(num_drafts), strict=True):
            if dial.stop_token_ids:
                permitted[span] &= ~torch.isin(drafts[span], torch.tensor(dial.stop_token_ids, device=drafts.device))
        self._accepts = (score > _per_draft(thresholds, tuple(num_drafts), score.device)) & permitted
        return constrained

    def _dials(self) -> list[Dial]:
        """By place in the batch; what no drafter proposed is verified strictly."""
        requests, req_ids = self.runner.requests, self.runner.input_batch.req_ids
        return [STRICT if r in self.unproposed else self.judge.dial(requests[r].sampling_params) for r in req_ids]

    def remember_fillers(self) -> None:
        """Symptom: tokens that no drafter proposed are judged. Why: where a request of the batch comes too near to the
        drafter's largest length, vLLM asks no drafter and drafts token 0 for all (gpu_model_runner.sample_tokens),
        which is an ordinary token in many vocabularies. How: a request whose latest drafts came about without the
        drafter is remembered until the drafter has been asked again. Until: vLLM marks placeholders with -1."""
        change = self.unproposed.difference_update if self.proposed else self.unproposed.update
        change(self.runner.input_batch.req_ids)
        self.unproposed &= self.runner.requests.keys()

    def _verify(self, rejection_sample: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Around vLLM's function `rejection_sample`, which decides on final logits [num_drafts, V]."""
        accepts, self._accepts = self._accepts, None
        # On a CPU it costs nothing to ask; elsewhere the step would have to wait for the answer.
        if accepts is None or (accepts.device.type == "cpu" and not accepts.any()):
            return rejection_sample(*args, **kwargs)
        drafts, num_drafts, max_spec_len, _, draft_probs, logits, _, sampling_metadata = args
        layout = tuple(num_drafts), drafts.device
        tokens = drafts.long().clamp(min=0)[:, None]
        uniform = None
        if not sampling_metadata.all_greedy:
            generators = sampling_metadata.generators
            uniform = vllm_rejection_sampler.generate_uniform_probs(len(drafts), num_drafts, generators, drafts.device)
        judge_only = accepts & ~_strict(tokens, layout, draft_probs, logits, sampling_metadata, uniform)
        own = logits.gather(1, tokens)
        logits.scatter_(1, tokens, torch.where(accepts[:, None], own.clamp(min=BOOST), own))
        # Drawing again would move the requests' generators on: vLLM's function gets the numbers that are drawn already.
        with _replaced("generate_uniform_probs", lambda *_: uniform):
            output = rejection_sample(*args, **kwargs)
        logits.scatter_(1, tokens, own)
        # An accepted draft has left, and another token behind it; what the target says instead of a draft is the last.
        left, places = output.flatten(), _places(*layout, max_spec_len + 1)
        accepted = (left[places] == drafts) & (left[places + 1] >= 0)
        counts = torch.zeros(len(num_drafts), dtype=torch.int32, device=drafts.device)
        self.judge_only = JudgeOnlyCounts(counts.index_add_(0, _owners(*layout), (judge_only & accepted).int()))
        return output


def _strict(
    tokens: torch.Tensor,
    layout: tuple[tuple[int, ...], torch.device],
    draft_probs: torch.Tensor | None,
    logits: torch.Tensor,
    sampling_metadata: Any,
    uniform: torch.Tensor | None,
) -> torch.Tensor:
    """[num_drafts] bool: what vLLM's own test says of each of the tokens [num_drafts, 1]; needed to count."""
    greedy = logits.argmax(dim=-1) == tokens[:, 0]
    if uniform is None:
        return greedy
    target_prob = by_row(_probability, logits, tokens[:, 0])
    draft_prob = 1.0 if draft_probs is None else draft_probs.gather(1, tokens)[:, 0]
    is_greedy = sampling_metadata.temperature == vllm_rejection_sampler.GREEDY_TEMPERATURE
    return torch.where(is_greedy[_owners(*layout)], greedy, target_prob / draft_prob >= uniform)


def _probability(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[rows]: softmax of logits [rows, V] at tokens [rows]."""
    return (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)).exp()


@contextlib.contextmanager
def _replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replaces a function of vLLM's module, which looks it up by name, while a step is verified."""
    original = getattr(vllm_rejection_sampler, name)
    setattr(vllm_rejection_sampler, name, function)
    try:
        yield
    finally:
        setattr(vllm_rejection_sampler, name, original)


# Steps of the same shape follow one another: what depends on it alone is made, and copied to the device, once.


@functools.lru_cache(maxsize=16)
def _owners(num_drafts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """[num_drafts] int64: for each draft token, its request's place in the batch."""
    owners = [request for request, n in enumerate(num_drafts) for _ in range(n)]
    return torch.tensor(owners, dtype=torch.long, device=device)


@functools.lru_cache(maxsize=16)
def _places(num_drafts: tuple[int, ...], device: torch.device, width: int) -> torch.Tensor:
    """[num_drafts] int64: where each draft token would stand in the flattened output [num_requests, width]."""
    places = [request * width + i for request, n in enumerate(num_drafts) for i in range(n)]
    return torch.tensor(places, dtype=torch.long, device=device)


@functools.lru_cache(maxsize=16)
def _per_draft(thresholds: tuple[float, ...], num_drafts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """[num_drafts] fp32: for each draft token, its request's threshold."""
    return torch.tensor([t for t, n in zip(thresholds, num_drafts, strict=True) for _ in range(n)], device=device)


def _spans(num_drafts: list[int]) -> Iterator[slice]:
    start = 0
    for n in num_drafts:
        yield slice(start, start + n)
        start += n
