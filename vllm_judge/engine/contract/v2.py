"""What engine/v2.py builds on: vLLM's model runner V2."""

from vllm_judge.engine.contract.kinds import Function, Mirrored, Names

# What v2.py overrides, calls, reads and mirrors.
V2 = (
    Names(
        "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
        ("device", "max_num_reqs", "rejection_sampler", "sampler"),
    ),
    Function("vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens", ("self", "grammar_output")),
    Function(
        "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample",
        ("self", "hidden_states", "input_batch", "grammar_output"),
    ),
    Names("vllm.v1.worker.gpu.input_batch:InputBatch", ("logits_indices",)),
    Names(
        "vllm.v1.worker.gpu.sample.sampler:Sampler",
        ("needs_logits_processing", "sampling_states", "thinking_budget_state", "use_fp64_gumbel"),
    ),
    Function("vllm.v1.worker.gpu.sample.sampler:Sampler.add_request", ("self", "req_idx", "sampling_params")),
    Function("vllm.v1.worker.gpu.sample.sampler:Sampler.apply_staged_writes", ("self",)),
    Function(
        "vllm.v1.worker.gpu.sample.sampler:Sampler.apply_sampling_params",
        (
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
    ),
    Names(
        "vllm.v1.worker.gpu.sample.states:SamplingStates",
        ("seeds", "temperature", "top_k", "top_p", "vocab_size"),
    ),
    Function(
        "vllm.v1.worker.gpu.sample.states:SamplingStates.apply_top_k_top_p",
        ("self", "logits", "expanded_idx_mapping", "idx_mapping_np"),
    ),
    Names("vllm.v1.worker.gpu.sample.thinking_budget:ThinkingBudgetState", ("enabled", "use_thinking_budget")),
    Names("vllm.v1.worker.gpu.buffer_utils:UvaBackedTensor", ("gpu", "np")),
    Function("vllm.v1.worker.gpu.buffer_utils:UvaBackedTensor.__init__", ("self", "size", "dtype", "max_concurrency")),
    Function("vllm.v1.worker.gpu.buffer_utils:UvaBackedTensor.copy_to_uva", ("self", "n")),
    Names("vllm.v1.worker.gpu.buffer_utils:StagedWriteTensor", ("gpu",)),
    Function(
        "vllm.v1.worker.gpu.buffer_utils:StagedWriteTensor.__init__",
        ("self", "size", "dtype", "device", "max_concurrency", "uva_instead_of_gpu"),
    ),
    Function("vllm.v1.worker.gpu.buffer_utils:StagedWriteTensor.stage_write", ("self", "index", "start", "x")),
    Function("vllm.v1.worker.gpu.buffer_utils:StagedWriteTensor.apply_write", ("self",)),
    Names(
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler",
        ("num_speculative_steps", "sampler"),
    ),
    Function(
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler.__call__",
        ("self", "logits", "input_batch", "draft_logits", "invalid_drafts"),
    ),
    Function(
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler._verify",
        (
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
    ),
    Mirrored(
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler._verify",
        ("99b80e0119dd3836", "0f120715b6e5140a"),
    ),
)
