"""The judge in vLLM's model runner V1, in PyTorch: a boost of the tokens that the judge accepts.

V1's verifier compares a draft token with the target's logits. Where the judge accepts a token, its logit is raised so
far that vLLM's own test passes with certainty, greedy or sampled; afterwards it is put back, so logprobs stay the
target's. All else (acceptance loop, recovered and bonus tokens, random numbers) is vLLM's own code.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from vllm.v1.sample import rejection_sampler as vllm_rejection_sampler
from vllm.v1.sample.rejection_sampler import RejectionSampler

from vllm_judge.engine import metrics
from vllm_judge.engine.dial import STRICT, Dial
from vllm_judge.engine.judge import FORCED_LOGIT, Judge, Verdicts
from vllm_judge.engine.output_layer import OutputLayer
from vllm_judge.engine.row_blocks import by_row
from vllm_judge.engine.v1_layout import of_requests, owners, padded, places, spans
from vllm_judge.engine.v1_thinking import ThinkingStates
from vllm_judge.kernels.reference import allowed, evidence
from vllm_judge.kernels.verdicts import verdicts

# Beyond any model's logit, so that softmax gives the token all of the probability.
BOOST = 1e8


def install(runner: Any, judge: Judge, layer: OutputLayer) -> None:
    """Gives a V1 runner, on its last pipeline rank, the judge; configuration.py has checked that it fits."""
    sampler = runner.rejection_sampler
    sampler.__class__ = JudgedRejectionSampler
    sampler.judge, sampler.runner = judge, runner
    sampler.unproposed = set()
    if judge.thinking is not None:
        sampler.thinking = ThinkingStates(runner, judge)
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
        sampler.verdicts, sampler.proposed = None, False
        try:
            output = sample_tokens(grammar_output)
        finally:
            sampler.hidden = None
        if sampled:
            sampler.remember_fillers()
        return metrics.attach(output, sampler.verdicts)

    def judged_propose_draft_token_ids(*args: Any, **kwargs: Any) -> Any:
        sampler.proposed = True
        return propose_draft_token_ids(*args, **kwargs)

    runner.execute_model, runner.sample_tokens = judged_execute_model, judged_sample_tokens
    runner.propose_draft_token_ids = judged_propose_draft_token_ids


class Opinion(NamedTuple):
    """What the judge has to say of a step's drafts.

    Attributes:
        score: [num_drafts] fp32 log-odds; permitted: [num_drafts] bool, whether it is asked at all.
        threshold: [num_requests, 1] fp32; shadow: [num_requests, 1] bool.
    """

    score: torch.Tensor
    permitted: torch.Tensor
    threshold: torch.Tensor
    shadow: torch.Tensor


class JudgedRejectionSampler(RejectionSampler):
    """vLLM's V1 verifier with the judge; made by swapping the class of vLLM's own object (worker.py).

    Attributes:
        judge: the head on this device; runner: vLLM's V1 model runner.
        hidden: [rows, H], hidden states of the step's logits rows; None outside a step (profiling: nothing is judged).
        verdicts: the step's, on drafts; None where nothing was judged.
        proposed: whether the drafter has been asked in this step.
        unproposed: the requests whose latest drafts no drafter proposed, see `remember_fillers`.
        thinking: where requests' reasoning stands; None where vLLM was not told what reasoning is.
    """

    judge: Judge
    runner: Any
    hidden: torch.Tensor | None = None
    verdicts: Verdicts | None = None
    proposed: bool
    unproposed: set[str]
    thinking: ThinkingStates | None = None
    # From apply_logits_processors to _verify, within one step.
    _opinion: Opinion | None = None

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
        for dial, span in zip(dials, spans(num_drafts), strict=True):
            if dial.stop_token_ids:
                permitted[span] &= ~torch.isin(drafts[span], torch.tensor(dial.stop_token_ids, device=drafts.device))
        layout = tuple(num_drafts), drafts.device
        if self.thinking is not None and any(dial.thinking_only for dial in dials):
            inside = self.thinking.inside(padded(drafts, layout[0], max(num_drafts), fill=-1))
            permitted &= inside.flatten()[places(*layout, max(num_drafts))]
        shadow = of_requests(tuple(float(dial.shadow) for dial in dials), drafts.device) > 0
        self._opinion = Opinion(score, permitted, of_requests(thresholds, drafts.device), shadow)
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
        opinion, self._opinion = self._opinion, None
        if opinion is None:
            return rejection_sample(*args, **kwargs)
        drafts, num_drafts, max_spec_len, _, draft_probs, logits, _, sampling_metadata = args
        layout = tuple(num_drafts), drafts.device
        owner, tokens = owners(*layout), drafts.long().clamp(min=0)[:, None]
        accepts = opinion.permitted & (opinion.score > opinion.threshold[owner, 0])
        shadow = opinion.shadow[owner, 0]
        # On a CPU it costs nothing to ask; elsewhere the step would have to wait for the answer.
        if accepts.device.type == "cpu" and not accepts.any():
            output = rejection_sample(*args, **kwargs)
            strict = torch.zeros_like(accepts)  # beyond what has left
        else:
            uniform = None
            if not sampling_metadata.all_greedy:
                uniform = vllm_rejection_sampler.generate_uniform_probs(
                    len(drafts), num_drafts, sampling_metadata.generators, drafts.device
                )
            strict = _strict(tokens, layout, draft_probs, logits, sampling_metadata, uniform) & (drafts >= 0)
            own = logits.gather(1, tokens)
            boosted = torch.where((accepts & ~shadow)[:, None], own.clamp(min=BOOST), own)
            logits.scatter_(1, tokens, boosted)
            # Drawing again would move the requests' generators on: vLLM's function gets the numbers that are drawn.
            with _replaced("generate_uniform_probs", lambda *_: uniform):
                output = rejection_sample(*args, **kwargs)
            logits.scatter_(1, tokens, own)
        # An accepted draft has left, and another token behind it; what the target says instead of a draft is the last.
        left, place = output.flatten(), places(*layout, max_spec_len + 1)
        accepted = (left[place] == drafts) & (left[place + 1] >= 0)
        # What has left is certain, whatever rounding or a NaN made of the strict test here.
        strict = torch.where(shadow, strict | accepted, accepted & (strict | ~accepts))
        permitted = opinion.permitted & (accepted | ~accepts | shadow)
        by_request = functools.partial(padded, num_drafts=layout[0], width=max_spec_len, fill=0)
        self.verdicts = Verdicts(
            verdicts(
                *(by_request(strict), by_request(permitted), by_request(drafts >= 0), by_request(opinion.score)),
                opinion.threshold,
                opinion.shadow,
            )
        )
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
    return torch.where(is_greedy[owners(*layout)], greedy, target_prob / draft_prob >= uniform)


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
