"""The judge in vLLM's model runner V2: the fused kernels in place of vLLM's verification."""

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor, UvaBackedTensor
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from vllm_judge.engine import metrics
from vllm_judge.engine.judge import FORCED_LOGIT, MAX_STOP_TOKEN_IDS, Judge, JudgeOnlyCount
from vllm_judge.kernels.verify import judged_rejection_sample


def install(runner: Any, judge: Judge) -> None:
    """Gives a V2 runner, on its last pipeline rank, the judge; configuration.py has checked that it fits."""
    verifier, sampler = runner.rejection_sampler, runner.sampler
    verifier.__class__ = JudgedRejectionSampler
    verifier.judge, verifier.states = judge, RequestStates(judge, runner.max_num_reqs, runner.device)
    add_request, apply_staged_writes = sampler.add_request, sampler.apply_staged_writes
    sample, sample_tokens = runner.sample, runner.sample_tokens

    def judged_add_request(req_idx: int, sampling_params: Any) -> None:
        add_request(req_idx, sampling_params)
        verifier.states.add_request(req_idx, sampling_params, sampler.needs_logits_processing[req_idx])

    def judged_apply_staged_writes() -> None:
        apply_staged_writes()
        verifier.states.apply_staged_writes()

    def judged_sample(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        verifier.hidden = hidden_states
        try:
            return sample(hidden_states, *args, **kwargs)
        finally:
            del verifier.hidden

    def judged_sample_tokens(grammar_output: Any) -> Any:
        verifier.judge_only = None
        output = sample_tokens(grammar_output)
        return metrics.attach(output, verifier.judge_only)

    sampler.add_request, sampler.apply_staged_writes = judged_add_request, judged_apply_staged_writes
    runner.sample, runner.sample_tokens = judged_sample, judged_sample_tokens


class RequestStates:
    """What the kernels need of each request, by vLLM's request state index, as vLLM's own SamplingStates."""

    def __init__(self, judge: Judge, max_num_reqs: int, device: torch.device):
        self._judge = judge
        self.threshold = UvaBackedTensor(max_num_reqs, dtype=torch.float32)
        self.raw_differs = UvaBackedTensor(max_num_reqs, dtype=torch.uint8)
        self.num_stop_token_ids = UvaBackedTensor(max_num_reqs, dtype=torch.int32)
        self.stop_token_ids = StagedWriteTensor((max_num_reqs, MAX_STOP_TOKEN_IDS), dtype=torch.int32, device=device)

    def add_request(self, req_idx: int, sampling_params: Any, needs_processing: bool) -> None:
        self.threshold.np[req_idx] = self._judge.threshold(sampling_params)
        self.raw_differs.np[req_idx] = needs_processing
        stop_token_ids = self._judge.stop_token_ids(sampling_params)
        self.num_stop_token_ids.np[req_idx] = len(stop_token_ids)
        if stop_token_ids:
            self.stop_token_ids.stage_write(req_idx, 0, stop_token_ids)

    def apply_staged_writes(self) -> None:
        self.threshold.copy_to_uva()
        self.raw_differs.copy_to_uva()
        self.num_stop_token_ids.copy_to_uva()
        self.stop_token_ids.apply_write()


class JudgedRejectionSampler(RejectionSampler):
    """vLLM's V2 verifier with the judge; made by swapping the class of vLLM's own object (worker.py).

    Attributes:
        judge: the head on this device; states: what the kernels need of each request.
        hidden: [num_tokens, H], hidden states of the step; it is there during a step only.
        judge_only: the step's count of tokens that only the judge accepted.
    """

    judge: Judge
    states: RequestStates
    hidden: torch.Tensor
    judge_only: JudgeOnlyCount | None = None

    def __call__(self, logits: torch.Tensor, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        # vLLM verifies in chunks of requests and hands `_verify` slices of rows: `_row` is where the next one starts.
        self._hidden_rows, self._row = input_batch.logits_indices, 0
        self._counts: list[torch.Tensor] = []
        output = super().__call__(logits, input_batch, *args, **kwargs)
        self.judge_only = JudgeOnlyCount(self._counts[0] if len(self._counts) == 1 else torch.cat(self._counts))
        return output

    def _verify(
        self,
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray,
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: np.ndarray,
        verify_draft_sampled: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """vLLM's method with the judge's kernels: constraints first, read, then top-k and top-p, then the verdict."""
        sampling = self.sampler.sampling_states
        processed = self.sampler.apply_sampling_params(
            logits,
            expanded_idx_mapping,
            idx_mapping,
            idx_mapping_np,
            pos,
            draft_sampled,
            expanded_local_pos,
            seq_lens_upper_bound_np,
            skip_top_k_top_p=True,
        )
        draft_constrained = None
        if processed is not logits:
            draft_constrained = self._draft_constrained(processed, verify_draft_sampled, idx_mapping_np)
            processed = sampling.apply_top_k_top_p(processed, expanded_idx_mapping, idx_mapping_np)
        rows = self._hidden_rows[self._row : self._row + len(logits)]
        self._row += len(logits)
        head = self.judge.head
        sampled, num_sampled, judge_only = judged_rejection_sample(
            processed,
            draft_logits,
            verify_draft_sampled,
            cu_num_logits,
            pos,
            idx_mapping,
            expanded_idx_mapping,
            expanded_local_pos,
            sampling.temperature.gpu,
            sampling.seeds.gpu,
            self.num_speculative_steps,
            use_fp64=self.sampler.use_fp64_gumbel,
            raw_logits=logits,
            raw_differs=self.states.raw_differs.gpu,
            draft_constrained=draft_constrained,
            hidden=self.hidden,
            hidden_rows=rows,
            weight=head.weight,
            bias=head.bias,
            evidence_weight=head.evidence,
            threshold=self.states.threshold.gpu,
            protected=self.judge.protected,
            stop_token_ids=self.states.stop_token_ids.gpu,
            num_stop_token_ids=self.states.num_stop_token_ids.gpu,
        )
        self._counts.append(judge_only)
        return processed, sampled, num_sampled

    def _draft_constrained(
        self, constrained: torch.Tensor, draft_sampled: torch.Tensor, idx_mapping_np: np.ndarray
    ) -> torch.Tensor | None:
        """[rows] fp32, by the draft token's own row: its logit one row earlier, after constraints, before truncation.

        None where the final logits still tell: no top-k or top-p in the step and no thinking budget.
        """
        sampling, budgets = self.sampler.sampling_states, self.sampler.thinking_budget_state
        truncated = np.any(sampling.top_k.np[idx_mapping_np] != sampling.vocab_size) or np.any(
            sampling.top_p.np[idx_mapping_np] != 1.0
        )
        budgeted = budgets.enabled and np.any(budgets.use_thinking_budget[idx_mapping_np])
        if not truncated and not budgeted:
            return None
        verifying, drafts = constrained[:-1], draft_sampled[1:].clamp(min=0).long()
        own = verifying.gather(1, drafts[:, None])[:, 0].float()
        if budgeted:
            own.masked_fill_(verifying.amax(dim=-1) > FORCED_LOGIT, -torch.inf)
        # The first row of a step holds no draft token.
        return torch.cat([own.new_full((1,), -torch.inf), own])
