"""The judge in vLLM's model runner V2: the fused kernels in place of vLLM's verification."""

from typing import Any

import numpy as np
import torch
from vllm.distributed.communication_op import tensor_model_parallel_all_reduce
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from vllm_judge.engine import metrics
from vllm_judge.engine.judge import FORCED_LOGIT, Judge, Verdicts
from vllm_judge.engine.output_layer import OutputLayer
from vllm_judge.engine.v2_fillers import Fillers
from vllm_judge.engine.v2_raw_scale import with_raw_scale
from vllm_judge.engine.v2_states import RequestStates
from vllm_judge.kernels.verify import judged_rejection_sample


def install(runner: Any, judge: Judge, layer: OutputLayer) -> None:
    """Gives a V2 runner, on its last pipeline rank, the judge; configuration.py has checked that it fits."""
    verifier, sampler = runner.rejection_sampler, runner.sampler
    verifier.__class__ = JudgedRejectionSampler
    verifier.judge, verifier.states = judge, RequestStates(judge, runner.req_states)
    if runner.speculative_config.use_ngram():
        verifier.fillers = Fillers(runner.speculator, runner.max_num_reqs, runner.num_speculative_steps, runner.device)
    verifier.rows = torch.arange(runner.max_num_reqs * runner.decode_query_len, device=runner.device)
    add_request, apply_staged_writes = with_raw_scale(sampler), sampler.apply_staged_writes
    sample, sample_tokens = runner.sample, runner.sample_tokens

    def judged_add_request(req_idx: int, sampling_params: Any) -> None:
        verifier.states.add_request(req_idx, sampling_params, add_request(req_idx, sampling_params))

    def judged_apply_staged_writes() -> None:
        apply_staged_writes()
        verifier.states.apply_staged_writes()

    def judged_sample(hidden_states: torch.Tensor, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        verifier.found = None
        if judge.stopped:
            verifier.states.stop_judging()
        # The rows to sample from pass through the output layer here, prompt logprobs and dummy runs elsewhere.
        with layer.inputs() as verifier.layer_inputs:
            output = sample(hidden_states, input_batch, *args, **kwargs)
        if runner.batch_sharder is not None and input_batch.num_draft_tokens:
            verifier.gather_verdicts(input_batch.idx_mapping)
        if verifier.found is not None:
            verifier.verdicts = Verdicts(verifier.found)
        return output

    def judged_sample_tokens(grammar_output: Any) -> Any:
        verifier.verdicts = None
        output = sample_tokens(grammar_output)
        return metrics.attach(output, verifier.verdicts)

    sampler.add_request, sampler.apply_staged_writes = judged_add_request, judged_apply_staged_writes
    runner.sample, runner.sample_tokens = judged_sample, judged_sample_tokens
    if runner.batch_sharder is not None:
        _follow_shards(runner.batch_sharder, verifier)


def _follow_shards(sharder: Any, verifier: Any) -> None:
    """Where each rank samples for requests of its own, the output layer reads all ranks' rows, rank by rank."""
    shard_sampler_inputs = sharder.shard_sampler_inputs

    def followed(*args: Any, **kwargs: Any) -> Any:
        *inputs, plan = shard_sampler_inputs(*args, **kwargs)
        verifier.first_row = sum(plan.num_logits_per_rank[: sharder.tp_rank])
        return *inputs, plan

    sharder.shard_sampler_inputs = followed


class JudgedRejectionSampler(RejectionSampler):
    """vLLM's V2 verifier with the judge; made by swapping the class of vLLM's own object (worker.py).

    Attributes:
        judge: the head on this device; states: what the kernels need of each request.
        layer_inputs: what the output layer has read in this step: one tensor, [all ranks' rows, H].
        first_row: of these, where this rank's begin; rows: [most rows of a step] int64, 0, 1, 2 ...
        fillers: which drafts no drafter proposed, where the drafter leaves places empty.
        found: [num_reqs, num_speculative_steps] int16, the step's verdicts on drafts; verdicts, the same on their way
            to the host. None where nothing was verified.
    """

    judge: Judge
    states: RequestStates
    layer_inputs: list[torch.Tensor]
    rows: torch.Tensor
    first_row: int = 0
    fillers: Fillers | None = None
    found: torch.Tensor | None = None
    verdicts: Verdicts | None = None

    def __call__(self, logits: torch.Tensor, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        # vLLM verifies in chunks of requests and hands `_verify` slices of rows: `_row` is where the next one starts.
        [self._hidden], self._row = self.layer_inputs, self.first_row
        self._found: list[torch.Tensor] = []
        output = super().__call__(logits, input_batch, *args, **kwargs)
        self.found = self._found[0] if len(self._found) == 1 else torch.cat(self._found)
        self._idx_mapping = input_batch.idx_mapping
        return output

    def gather_verdicts(self, idx_mapping: torch.Tensor) -> None:
        """Where each tensor-parallel rank has sampled requests of its own (batch-sharded sampling): makes `found` all
        ranks'. To be called by every rank, whether it had requests or not.

        Args:
            idx_mapping: [num_reqs] the whole step's requests, by their index of state.
        """
        # Not every platform's all-reduce knows integers; in fp32 these are exact.
        found = torch.zeros(len(self.states.threshold.np), self.num_speculative_steps, device=idx_mapping.device)
        if self.found is not None:
            found[self._idx_mapping] = self.found.float()
        self.found = tensor_model_parallel_all_reduce(found)[idx_mapping].to(torch.int16)

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
        fillers = None if self.fillers is None else self.fillers.rows(expanded_idx_mapping, expanded_local_pos)
        draft_constrained = self._draft_constrained(processed, verify_draft_sampled, idx_mapping_np, fillers)
        if processed is not logits:
            processed = sampling.apply_top_k_top_p(processed, expanded_idx_mapping, idx_mapping_np)
        rows = self.rows[self._row : self._row + len(logits)]
        self._row += len(logits)
        head = self.judge.head
        sampled, num_sampled, verdicts = judged_rejection_sample(
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
            raw_scale=self.states.raw_scale.gpu,
            draft_constrained=draft_constrained,
            hidden=self._hidden,
            hidden_rows=rows,
            weight=head.weight,
            bias=head.bias,
            evidence_weight=head.evidence,
            threshold=self.states.threshold.gpu,
            protected=self.judge.protected,
            stop_token_ids=self.states.stop_token_ids.gpu,
            num_stop_token_ids=self.states.num_stop_token_ids.gpu,
            shadow=self.states.shadow.gpu,
            thinking=self.states.thinking,
        )
        self._found.append(verdicts)
        return processed, sampled, num_sampled

    def _draft_constrained(
        self,
        constrained: torch.Tensor,
        draft_sampled: torch.Tensor,
        idx_mapping_np: np.ndarray,
        fillers: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """[rows] fp32, by the draft token's own row: its logit one row earlier, after constraints, before truncation;
        -inf for a filler, which is not to be judged.

        None where the final logits still tell: no top-k or top-p in the step, no thinking budget, and a drafter without
        fillers.
        """
        sampling, budgets = self.sampler.sampling_states, self.sampler.thinking_budget_state
        truncated = np.any(sampling.top_k.np[idx_mapping_np] != sampling.vocab_size) or np.any(
            sampling.top_p.np[idx_mapping_np] != 1.0
        )
        budgeted = budgets.enabled and np.any(budgets.use_thinking_budget[idx_mapping_np])
        if not truncated and not budgeted and fillers is None:
            return None
        verifying, drafts = constrained[:-1], draft_sampled[1:].clamp(min=0).long()
        own = verifying.gather(1, drafts[:, None])[:, 0].float()
        if budgeted:
            own.masked_fill_(verifying.amax(dim=-1) > FORCED_LOGIT, -torch.inf)
        # The first row of a step holds no draft token.
        own = torch.cat([own.new_full((1,), -torch.inf), own])
        return own if fillers is None else own.masked_fill(fillers, -torch.inf)
