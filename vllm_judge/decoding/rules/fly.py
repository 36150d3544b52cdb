"""FLy: a mismatch is kept where the target is unsure and then agrees with the draft for a while."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid

TOP = 3


def accepts(step: Step, window: float, gate: float) -> torch.Tensor:
    """[M] bool: p(d) > 0, the gate is open, and the `window` drafts after d all pass the strict test.

    The gate is open where the sum of -p log p, in nats, over the target's three most likely tokens is at least
    `gate`. A window that reaches beyond the last draft counts as failed: those tokens are not known yet.
    """
    window = int(window)
    probabilities = step.sampling_logits[:-1].softmax(dim=-1)
    top = probabilities.topk(min(TOP, probabilities.shape[-1]), dim=-1).values
    unsure = torch.special.entr(top).sum(dim=-1) >= gate
    later = torch.cat([step.strict[1:], step.strict.new_zeros(window)])
    agreed = later.unfold(0, window, 1)[: len(step.drafts)].all(dim=-1)
    return unsure & agreed & (step.of_drafts(probabilities) > 0)


RULE = Rule(
    name="FLy",
    accepts=accepts,
    grid=(*grid(window=(6, 4, 3, 2, 1), gate=(0.3,)), *grid(window=(1,), gate=(0.1, 0.0))),
    source=(
        "Li et al., FLy, ICLR 2026, arXiv 2511.22972 (its setting is window 6, gate 0.3, as vLLM 0.33 has it too, with "
        "a window of at most the drafts less one). The entropy of the top three and the failed open window are as in "
        "the authors' code; p(d) > 0, and probabilities after temperature and "
        'truncation, as in vLLM\'s rejection_sample_method "fly".'
    ),
)
