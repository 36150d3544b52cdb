"""Speculative decoding in plain transformers, prompts side by side, under any acceptance rule: the engines' oracle."""

import functools
from collections.abc import Collection, Iterator, Sequence

import torch
from transformers import PreTrainedModel

from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.decoding.batch import Batch, Decoded, Request
from vllm_judge.decoding.rules import Acceptance
from vllm_judge.decoding.rules.judge import accepts as judge_accepts
from vllm_judge.decoding.rules.strict import accepts as nothing_more
from vllm_judge.decoding.side_by_side import SideBySide
from vllm_judge.head import JudgeHead


def speculative_decode(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_speculative_tokens: int,
    max_new_tokens: int,
    head: JudgeHead | None = None,
    threshold: float | None = None,
    eos_token_ids: Collection[int] = (),
    protected_token_ids: Collection[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Decoded]:
    """Judge decoding, or strict verification where there is no head, as `decode_under` does it.

    Args:
        prompts: at least one token each.
        head: the judge; None: strict verification.
        threshold: acceptance probability in [0, 1]; None: the head's own.
        seed: of the first prompt; each further one has the next number.
        other arguments: see `decode_under`.

    Returns:
        one generation a prompt.
    """
    rule: Acceptance = nothing_more
    if head is not None:
        limit = head.threshold if threshold is None else threshold
        rule = functools.partial(judge_accepts, head=head, threshold=limit)
    decoded = decode_under(
        target,
        draft,
        [Request(prompt, [rule], seed + index) for index, prompt in enumerate(prompts)],
        num_speculative_tokens=num_speculative_tokens,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos_token_ids,
        protected_token_ids=protected_token_ids,
        temperature=temperature,
    )
    return [runs[0] for _, runs in sorted(decoded, key=lambda one: one[0])]


def decode_under(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    requests: Sequence[Request],
    *,
    num_speculative_tokens: int,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    protected_token_ids: Collection[int] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, list[Decoded]]]:
    """Drafts greedily, verifies in one target pass, applies a rule, repeats, as vLLM does with `method: draft_model`.

    Each rule decodes each prompt for itself: a text depends neither on the rules nor on the prompts beside it. Rules
    that have written the same text so far share the models' passes, and at a temperature above 0 the random numbers
    too. They go on together or part for good: where one accepts a token and another does not, the other's own token
    is a different one.

    The prompt's own pass yields the first token without any draft; cycles begin after it.

    Args:
        target: the model whose text is wanted; draft: a smaller one of the same vocabulary.
        num_speculative_tokens: M, draft tokens per cycle.
        max_new_tokens: where the generation is cut off, inside a cycle if need be.
        eos_token_ids: tokens that end the text; no rule accepts one, only the strict test does.
        protected_token_ids: other tokens that only the strict test may accept.
        temperature: 0 is greedy; above, the target's tokens are sampled.
        top_p: the target samples from its nucleus of this mass. It binds the strict test, and those rules that are
            defined on what the target samples from.
        batch_size: texts side by side at most; a single request has as many as it has rules, if need be.

    Yields:
        as soon as a request is done its index and one generation a rule.

    Raises:
        JudgeError: a model has layers that cannot take back a token.
    """
    protected = torch.zeros(target.config.get_text_config().vocab_size, dtype=torch.bool, device=target.device)
    protected[[*eos_token_ids, *protected_token_ids]] = True
    batch = Batch(
        SideBySide(target),
        SideBySide(draft),
        num_drafts=num_speculative_tokens,
        max_new_tokens=max_new_tokens,
        ends=frozenset(eos_token_ids),
        protected=protected,
        temperature=temperature,
        top_p=top_p,
    )
    return batch.run(requests, batch_size)
