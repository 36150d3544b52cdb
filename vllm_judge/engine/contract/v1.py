"""What engine/v1.py builds on: vLLM's model runner V1."""

from vllm_judge.engine.contract.kinds import Function, Names, Text

# What v1.py overrides, calls, reads and mirrors.
V1 = (
    Names(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
        (
            "device",
            "discard_request_mask",
            "execute_model_state",
            "get_model",
            "input_batch",
            "rejection_sampler",
            "requests",
            "uniform_decode_query_len",
        ),
    ),
    Function(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model",
        ("self", "scheduler_output", "intermediate_tensors"),
    ),
    Function(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._dummy_run",
        (
            "self",
            "num_tokens",
            "cudagraph_runtime_mode",
            "force_attention",
            "uniform_decode",
            "allow_microbatching",
            "skip_eplb",
            "is_profile",
            "create_mixed_batch",
            "remove_lora",
            "is_graph_capturing",
            "num_active_loras",
            "profile_seq_lens",
            "randomize_inputs",
        ),
    ),
    Function("vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens", ("self", "grammar_output")),
    # All sampling, with drafts and without; what it returns is on the device (v1_thinking.py).
    Function("vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample", ("self", "logits", "spec_decode_metadata")),
    Names("vllm.v1.outputs:SamplerOutput", ("sampled_token_ids",)),
    Names(
        "vllm.v1.core.sched.output:SchedulerOutput", ("finished_req_ids", "scheduled_cached_reqs", "scheduled_new_reqs")
    ),
    Names("vllm.v1.core.sched.output:NewRequestData", ("req_id",)),
    Names("vllm.v1.core.sched.output:CachedRequestData", ("resumed_req_ids",)),
    # Called wherever a drafter is asked: what verification reads beside is a filler.
    Function(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner.propose_draft_token_ids",
        (
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
    ),
    Names("vllm.v1.worker.gpu_input_batch:InputBatch", ("req_ids",)),
    Names(
        "vllm.v1.worker.gpu_input_batch:CachedRequestState",
        ("output_token_ids", "prompt_token_ids", "sampling_params"),
    ),
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
    # v1.py stands between its steps, and takes its arguments of rejection_sample apart.
    Text(
        "vllm.v1.sample.rejection_sampler:RejectionSampler.forward",
        (
            "5fe75d6b2e178213",
            "714aaf6b7d420b35",
        ),
    ),
    # What v1.py says again in PyTorch, to count: the strict test.
    Text("vllm.v1.sample.rejection_sampler:rejection_greedy_sample_kernel", ("59db7a9bd855c9cc",)),
    Text("vllm.v1.sample.rejection_sampler:rejection_random_sample_kernel", ("bcfe45972ecd526c",)),
)
