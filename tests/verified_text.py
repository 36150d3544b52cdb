"""A text by the oracle alone, cycle by cycle: no cache, no batch, one pass over everything for each token."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from transformers import LlamaForCausalLM

from vllm_judge import JudgeHead
from vllm_judge.head import logit
from vllm_judge.kernels.reference import Verification, allowed, evidence, verify

# Of a text's tokens and its drafts: which of them the judge may accept, [M] bool.
Scope = Callable[[list[int], torch.Tensor], torch.Tensor]


@dataclass
class VerifiedText:
    """A greedy answer: its tokens, and the verifications that it came of."""

    tokens: list[int]
    steps: list[Verification] = field(default_factory=list)


@torch.inference_mode()
def verified(
    target: LlamaForCausalLM,
    draft: LlamaForCausalLM,
    head: JudgeHead,
    prompt: list[int],
    length: int,
    num_drafts: int,
    protected: torch.Tensor,
    *,
    ends: Collection[int],
    threshold: float | None = None,
    scope: Scope | None = None,
    shadow: bool = False,
) -> VerifiedText:
    """Decodes a prompt up to `length` tokens or one of `ends`.

    Args:
        protected: [V] bool; threshold: a probability, by default the head's; scope: by default everywhere.
    """
    text = [*prompt, _choice(target, prompt)]
    steps: list[Verification] = []
    while len(text) < len(prompt) + length and not set(text[len(prompt) :]) & set(ends):
        drafted = list(text)
        for _ in range(num_drafts):
            drafted.append(_choice(draft, drafted))
        drafts = torch.tensor(drafted[len(text) :])
        output = target(torch.tensor([drafted]), output_hidden_states=True)
        logits, hidden = output.logits[0, len(text) - 1 :], output.hidden_states[-1][0, len(text) :]
        may = allowed(logits[:-1], drafts, protected)
        steps.append(
            verify(
                logits,
                drafts,
                head.score(hidden, evidence(logits[:-1], drafts)),
                logit(head.threshold if threshold is None else threshold),
                may if scope is None else may & scope(text, drafts),
                temperature=0.0,
                shadow=shadow,
            )
        )
        text += steps[-1].tokens.tolist()
    answer = text[len(prompt) :][:length]
    end = next((i for i, token in enumerate(answer, 1) if token in ends), None)
    return VerifiedText(answer[:end], steps)


def _choice(model: LlamaForCausalLM, text: list[int]) -> int:
    return int(model(torch.tensor([text])).logits[0, -1].argmax())
