"""TensorRT-LLM's relaxed acceptance: among the k most likely tokens, and not far behind the first."""

import torch

from vllm_judge.decoding.rules.base import Rule, Step, grid


def accepts(step: Step, k: float, delta: float) -> torch.Tensor:
    """[M] bool: fewer than k tokens are more likely than d, and p(d) >= p_max - delta, of the raw distribution."""
    probabilities = step.target_logits[:-1].softmax(dim=-1)
    of_draft = step.of_drafts(probabilities)
    rank = (probabilities > of_draft.unsqueeze(-1)).sum(dim=-1)
    return (rank < k) & (of_draft >= probabilities.amax(dim=-1) - delta)


RULE = Rule(
    name="top-k within delta",
    accepts=accepts,
    grid=grid(k=(10,), delta=(0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)),
    source=(
        "TensorRT-LLM, relaxed acceptance (tech blog 2; its example is k 10, delta 0.6): softmax of the logits as they "
        "are. There it is an option of MTP, in the thinking phase of whichever model's tokens mark one; here it holds "
        "everywhere."
    ),
)
