"""Speculative decoding in plain transformers, one prompt at a time, under any acceptance rule: the engines' oracle."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, TopPLogitsWarper

from vllm_judge.decoding.rules import Acceptance, Step
from vllm_judge.decoding.rules.judge import accepts as judge_accepts
from vllm_judge.decoding.rules.strict import accepts as nothing_more
from vllm_judge.head import JudgeHead
from vllm_judge.kernels.reference import allowed, strict_test, verify


@dataclass
class Decoded:
    """A generation and how it came about.

    Attributes:
        tokens: the generated tokens, up to and with the first end-of-sequence token.
        cycles: accepted draft tokens of each target verification, the target's own token not counted. As in vLLM, a
            cycle counts whole even where the text ends inside it.
        judge_only: accepted draft tokens that the strict test alone would have rejected.
    """

    tokens: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    judge_only: int = 0


class _CachedModel:
    """A causal language model that remembers the text it last read."""

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._text: Sequence[int] = ()

    def logits(self, text: Sequence[int], rows: int) -> torch.Tensor:
        """Reads a text; returns logits [rows, V] fp32 of its last tokens."""
        return self._read(text, rows).logits[0].float()

    def logits_and_states(self, text: Sequence[int], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and their hidden states [rows, H] after the final norm."""
        output = self._read(text, rows, output_hidden_states=True)
        return output.logits[0].float(), output.hidden_states[-1][0, -rows:]

    def _read(self, text: Sequence[int], rows: int, **options: bool) -> Any:
        shared = next((i for i, (old, new) in enumerate(zip(self._text, text, strict=False)) if old != new), None)
        known = min(len(self._text) if shared is None else shared, len(text) - rows)
        if known < len(self._text):
            self._cache.crop(known - len(self._text))  # minus the number of tokens to forget
        self._text = text
        unknown = torch.tensor([list(text[known:])], device=self._model.device)
        return self._model(
            unknown, past_key_values=self._cache, use_cache=True, logits_to_keep=rows, return_dict=True, **options
        )


def speculative_decode(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompt_ids: Sequence[int],
    *,
    num_speculative_tokens: int,
    max_new_tokens: int,
    head: JudgeHead | None = None,
    threshold: float | None = None,
    eos_token_ids: Collection[int] = (),
    protected_token_ids: Collection[int] = (),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Judge decoding, or strict verification where there is no head, as `decode_under` does it.

    Args:
        head: the judge; None: strict verification.
        threshold: acceptance probability in [0, 1]; None: the head's own.
        other arguments: see `decode_under`.
    """
    rule: Acceptance = nothing_more
    if head is not None:
        limit = head.threshold if threshold is None else threshold
        rule = functools.partial(judge_accepts, head=head, threshold=limit)
    [decoded] = decode_under(
        [rule],
        target,
        draft,
        prompt_ids,
        num_speculative_tokens=num_speculative_tokens,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos_token_ids,
        protected_token_ids=protected_token_ids,
        temperature=temperature,
        generator=generator,
    )
    return decoded


@torch.inference_mode()
def decode_under(
    rules: Sequence[Acceptance],
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompt_ids: Sequence[int],
    *,
    num_speculative_tokens: int,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    protected_token_ids: Collection[int] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[Decoded]:
    """Drafts greedily, verifies in one target pass, applies a rule, repeats, as vLLM does with `method: draft_model`.

    Each rule decodes the prompt for itself. Rules that have come to the same text share the models' passes, and at a
    temperature above 0 the random numbers too: a rule's text does not depend on which others run beside it.

    The prompt's own pass yields the first token without any draft; cycles begin after it.

    Args:
        rules: each accepts drafts beyond the strict test; it is asked for tokens it may not accept, in vain.
        target: the model whose text is wanted; draft: a smaller one of the same vocabulary.
        prompt_ids: at least one token.
        num_speculative_tokens: M, draft tokens per cycle.
        max_new_tokens: where the generation is cut off, inside a cycle if need be.
        eos_token_ids: tokens that end the text; no rule accepts one, only the strict test does.
        protected_token_ids: other tokens that only the strict test may accept.
        temperature: 0 is greedy; above, the target's tokens are sampled with `generator`.
        top_p: the target samples from its nucleus of this mass. It binds the strict test, and those rules that are
            defined on what the target samples from.

    Returns:
        one generation a rule.
    """
    large, small = _CachedModel(target), _CachedModel(draft)
    protected = torch.zeros(target.config.vocab_size, dtype=torch.bool, device=target.device)
    protected[[*eos_token_ids, *protected_token_ids]] = True
    seed = int(torch.randint(2**62, (), generator=generator)) if temperature > 0.0 else 0

    decoded = [Decoded() for _ in rules]
    reached: dict[tuple[int, ...], list[int]] = {tuple(prompt_ids): list(range(len(rules)))}
    while reached:
        text = min(reached, key=len)  # shortest first: who will come to this text has come by now
        arrived = reached.pop(text)
        num_drafts = num_speculative_tokens if len(text) > len(prompt_ids) else 0
        drafts, draft_logits = _draft(small, text, num_drafts)
        logits, hidden = large.logits_and_states((*text, *drafts), num_drafts + 1)
        noise = _noise(logits, seed + len(text)) if temperature > 0.0 else {}
        sampling_logits = _processed(logits, temperature, top_p)
        tokens = torch.tensor(drafts, dtype=torch.long, device=logits.device)
        strict = strict_test(sampling_logits[:-1], tokens, temperature=temperature, uniform=noise.get("uniform"))
        step = Step(logits, sampling_logits, draft_logits, hidden, tokens, strict)
        permitted = allowed(logits[:-1], tokens, protected)
        for index in arrived:
            accepted = rules[index](step) if drafts else permitted
            scores = torch.where(accepted, torch.inf, -torch.inf)
            result = verify(sampling_logits, tokens, scores, 0.0, permitted, temperature=temperature, **noise)
            run = decoded[index]
            if drafts:
                run.cycles.append(result.num_accepted)
                run.judge_only += result.judge_only
            longer = (*text, *result.tokens.tolist())
            generated = longer[len(prompt_ids) :]
            end = next((i for i, token in enumerate(generated, 1) if token in eos_token_ids), None)
            if end is None and len(generated) < max_new_tokens:
                reached.setdefault(longer, []).append(index)
            else:
                run.tokens = list(generated[:end][:max_new_tokens])
    return decoded


def _draft(model: _CachedModel, text: Sequence[int], count: int) -> tuple[list[int], torch.Tensor]:
    """The model's greedy continuation of a text, `count` tokens long, and their logits [count, W]."""
    drafts: list[int] = []
    rows: list[torch.Tensor] = []
    while len(drafts) < count:
        rows.append(model.logits((*text, *drafts), 1))
        drafts.append(int(rows[-1].argmax()))
    return drafts, torch.cat(rows) if rows else torch.empty(0, 0)


def _processed(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """[N, V] what the target samples from: -inf outside the nucleus."""
    if temperature == 0.0:
        return logits
    logits = logits / temperature
    return TopPLogitsWarper(top_p)(None, logits) if top_p < 1.0 else logits


def _noise(logits: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """The random numbers of `verify`, a function of the seed."""
    rows, vocab_size = logits.shape
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(rows, vocab_size + 1, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    uniform = uniform.to(logits.device)
    return {"uniform": uniform[:-1, -1], "gumbel": -(-uniform[:, :-1].log()).log()}
