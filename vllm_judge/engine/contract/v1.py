"""What engine/v1.py builds on: vLLM's model runner V1."""

from vllm_judge.engine.contract.kinds import Function, Mirrored, Names

# What v1.py overrides, calls, reads and mirrors.
V1 = (
    Names(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
        ("device", "execute_model_state", "input_batch", "rejection_sampler", "requests"),
    ),
    Function("vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens", ("self", "grammar_output")),
    Names("vllm.v1.worker.gpu_model_runner:ExecuteModelState", ("sample_hidden_states",)),
    Names("vllm.v1.worker.gpu_input_batch:InputBatch", ("req_ids",)),
    Names("vllm.v1.worker.gpu_input_batch:CachedRequestState", ("sampling_params",)),
    Names(
        "vllm.v1.spec_decode.metadata:SpecDecodeMetadata",
        ("draft_token_ids", "num_draft_tokens", "target_logits_indices"),
    ),
    Names(
        "vllm.v1.sample.metadata:SamplingMetadata",
        ("all_greedy", "generators", "temperature", "thinking_budget_state_holder"),
    ),
    Function("vllm.v1.sample.thinking_budget_state:ThinkingBudgetStateHolder.has_tracked_requests", ("self",)),
    Names("vllm.v1.sample.rejection_sampler", ("GREEDY_TEMPERATURE",)),
    Function(
        "vllm.v1.sample.rejection_sampler:RejectionSampler.forward",
        ("self", "metadata", "draft_probs", "logits", "sampling_metadata"),
    ),
    Function(
        "vllm.v1.sample.rejection_sampler:RejectionSampler.apply_logits_processors",
        ("self", "logits", "sampling_metadata", "metadata"),
    ),
    Function(
        "vllm.v1.sample.rejection_sampler:rejection_sample",
        (
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
        ),
        # 0.33: given by keyword, handed through, and without effect where rejection_sample_method is "standard".
        extras=("fly_window_size", "fly_entropy_threshold", "fly_entropy_top_k"),
    ),
    Function(
        "vllm.v1.sample.rejection_sampler:generate_uniform_probs",
        ("num_tokens", "num_draft_tokens", "generators", "device"),
    ),
    # What v1.py says again in PyTorch, to count: the strict test.
    Mirrored("vllm.v1.sample.rejection_sampler:rejection_greedy_sample_kernel", ("59db7a9bd855c9cc",)),
    Mirrored("vllm.v1.sample.rejection_sampler:rejection_random_sample_kernel", ("bcfe45972ecd526c",)),
)
