"""What a head reads of every token of an answer, computed by the target in one pass."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from vllm_judge.kernels.reference import evidence


@torch.inference_mode()
def token_features(
    target: PreTrainedModel, prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's view of an answer's tokens.

    Args:
        target: the target model.
        prompt_ids: at least one token; answer_ids: N tokens.

    Returns:
        hidden [N, H] fp32: the state of each token's own row, after the final norm.
        evidence [N, 4] fp32: what the row before said of the token, see `kernels.reference.evidence`.
    """
    ids = torch.tensor([[*prompt_ids, *answer_ids]], device=target.device)
    hidden = target.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    answer = slice(len(prompt_ids), ids.shape[1])
    before = slice(len(prompt_ids) - 1, ids.shape[1] - 1)
    logits = target.get_output_embeddings()(hidden[before])
    return hidden[answer].float().cpu(), evidence(logits, ids[0, answer]).cpu()
