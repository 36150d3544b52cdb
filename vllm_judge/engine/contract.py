"""What vllm-judge builds on in vLLM, as data: each function that is hooked, called or overridden, and its parameters.

Written against vLLM 0.32 and 0.33. A version that differs is refused in one sentence where a judge is configured.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """The parameters that a function of vLLM must have, in order, and those that a version may have behind them."""

    names: tuple[str, ...]
    extras: tuple[str, ...] = ()

    def mismatch(self, target: str, found: tuple[str, ...]) -> str | None:
        """What does not fit of the parameters that were found; None if they do."""
        first, rest = found[: len(self.names)], found[len(self.names) :]
        if first == self.names and set(rest) <= set(self.extras):
            return None
        also = f" and at most {self.extras} behind them" if self.extras else ""
        return f"{target} takes {found}, expected {self.names}{also}"


def takes(*names: str, extras: tuple[str, ...] = ()) -> Parameters:
    return Parameters(names, extras)


# What the hooks of hooks.py are put around.
HOOKED = {
    "vllm.engine.arg_utils:EngineArgs.add_cli_args": takes("parser"),
    "vllm.engine.arg_utils:EngineArgs.create_engine_config": takes("self", "usage_context", "headless"),
    "vllm.sampling_params:SamplingParams._validate_spec_decode": takes("self", "speculative_config"),
    "vllm.v1.engine.core:EngineCore.preprocess_add_request": takes("self", "request"),
    "vllm.v1.worker.worker_base:WorkerBase.__init__": takes(
        "self", "vllm_config", "local_rank", "rank", "distributed_init_method", "is_driver_worker"
    ),
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": takes(
        "self", "scheduler_output", "model_runner_output"
    ),
    "vllm.v1.core.sched.scheduler:Scheduler.make_spec_decoding_stats": takes(
        "self",
        "spec_decoding_stats",
        "num_draft_tokens",
        "num_accepted_tokens",
        "num_invalid_spec_tokens",
        "request_id",
    ),
    "vllm.v1.spec_decode.metrics:SpecDecodingProm.__init__": takes(
        "self", "speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"
    ),
    "vllm.v1.spec_decode.metrics:SpecDecodingProm.observe": takes("self", "spec_decoding_stats", "engine_idx"),
    "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens": takes(
        "x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"
    ),
    "vllm.v1.sample.rejection_sampler:apply_sampling_constraints": takes(
        "logits", "cu_num_draft_tokens", "sampling_metadata"
    ),
}

# What v1.py overrides and calls.
V1 = {
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens": takes("self", "grammar_output"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.propose_draft_token_ids": takes(
        "self",
        "scheduler_output",
        "sampled_token_ids",
        "sampling_metadata",
        "hidden_states",
        "sample_hidden_states",
        "aux_hidden_states",
        "spec_decode_metadata",
        "common_attn_metadata",
        "slot_mappings",
    ),
    "vllm.v1.sample.rejection_sampler:RejectionSampler.forward": takes(
        "self", "metadata", "draft_probs", "logits", "sampling_metadata"
    ),
    "vllm.v1.sample.rejection_sampler:RejectionSampler.apply_logits_processors": takes(
        "self", "logits", "sampling_metadata", "metadata"
    ),
    "vllm.v1.sample.rejection_sampler:rejection_sample": takes(
        "draft_token_ids",
        "num_draft_tokens",
        "max_spec_len",
        "cu_num_draft_tokens",
        "draft_probs",
        "target_logits",
        "bonus_token_ids",
        "sampling_metadata",
        "synthetic_mode",
        "synthetic_conditional_rates",
        "use_fp64_gumbel",
        # 0.33; handed through by keyword, and unused with rejection_sample_method "standard".
        extras=("fly_window_size", "fly_entropy_threshold", "fly_entropy_top_k"),
    ),
    "vllm.v1.sample.rejection_sampler:generate_uniform_probs": takes(
        "num_tokens", "num_draft_tokens", "generators", "device"
    ),
}

# What v2.py overrides and calls.
V2 = {
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens": takes("self", "grammar_output"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample": takes(
        "self", "hidden_states", "input_batch", "grammar_output"
    ),
    "vllm.v1.worker.gpu.sample.sampler:Sampler.add_request": takes("self", "req_idx", "sampling_params"),
    "vllm.v1.worker.gpu.sample.sampler:Sampler.apply_staged_writes": takes("self"),
    "vllm.v1.worker.gpu.sample.sampler:Sampler.apply_sampling_params": takes(
        "self",
        "logits",
        "expanded_idx_mapping",
        "idx_mapping",
        "idx_mapping_np",
        "pos",
        "input_ids",
        "expanded_local_pos",
        "seq_lens_upper_bound_np",
        "skip_top_k_top_p",
    ),
    "vllm.v1.worker.gpu.spec_decode.ngram.speculator:NgramGPUSpeculator.propose": takes(
        "self",
        "input_batch",
        "attn_metadata",
        "slot_mappings",
        "last_hidden_states",
        "aux_hidden_states",
        "num_sampled",
        "num_rejected",
        "last_sampled",
        "next_prefill_tokens",
        "temperature",
        "seeds",
        "dp_sync_state",
        "dummy_run",
        "skip_attn_for_dummy_run",
        "mm_inputs",
        "is_profile",
        "num_speculative_tokens",
    ),
    "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler.__call__": takes(
        "self", "logits", "input_batch", "draft_logits", "invalid_drafts"
    ),
    "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler._verify": takes(
        "self",
        "logits",
        "draft_logits",
        "draft_sampled",
        "pos",
        "cu_num_logits",
        "idx_mapping",
        "idx_mapping_np",
        "expanded_idx_mapping",
        "expanded_local_pos",
        "seq_lens_upper_bound_np",
        "verify_draft_sampled",
    ),
}

FUNCTIONS = {**HOOKED, **V1, **V2}
