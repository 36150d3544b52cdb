"""Places of V2's drafts that no drafter proposed a token for."""

from typing import Any

import torch


class Fillers:
    """For each request, which of its latest drafts are fillers.

    Symptom: tokens that no drafter proposed are judged. Why: vLLM's n-gram speculator fills the places that it found
    nothing for with the request's last token, which for strict verification is as good as any. (All other speculators
    of V2 propose for every place, or leave -1.) How: the token to fill with is an argument of `propose`: it is asked
    with -1, and what came back as -1 is remembered and gets vLLM's filler after all. Until: vLLM marks placeholders
    with -1.
    """

    def __init__(self, speculator: Any, max_num_reqs: int, num_steps: int, device: torch.device):
        """Watches `speculator.propose`; num_steps: the most drafts of a request."""
        self._filled = torch.zeros(max_num_reqs, num_steps, dtype=torch.bool, device=device)
        propose = speculator.propose

        def watched_propose(
            input_batch: Any,
            attn_metadata: Any,
            slot_mappings: Any,
            last_hidden_states: Any,
            aux_hidden_states: Any,
            num_sampled: torch.Tensor,
            num_rejected: torch.Tensor,
            last_sampled: torch.Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> torch.Tensor:
            step = (input_batch, attn_metadata, slot_mappings, last_hidden_states, aux_hidden_states)
            if kwargs.get("dummy_run"):
                return propose(*step, num_sampled, num_rejected, last_sampled, *args, **kwargs)
            drafts = propose(*step, num_sampled, num_rejected, torch.full_like(last_sampled, -1), *args, **kwargs)
            filled = drafts < 0
            self._filled[input_batch.idx_mapping] = filled
            return torch.where(filled, last_sampled.view(-1)[input_batch.idx_mapping, None], drafts)

        speculator.propose = watched_propose

    def rows(self, expanded_idx_mapping: torch.Tensor, expanded_local_pos: torch.Tensor) -> torch.Tensor:
        """[rows] bool: whether the draft that a row of logits has consumed is a filler.

        Args:
            expanded_idx_mapping: [rows] the rows' requests, by their index of state.
            expanded_local_pos: [rows] the rows' places in their requests; the first, 0, consumed no draft.
        """
        filled = self._filled[expanded_idx_mapping, (expanded_local_pos - 1).clamp(min=0)]
        return filled & (expanded_local_pos > 0)
