"""What engine/v2.py builds on: vLLM's model runner V2."""

from vllm_judge.engine.contract.kinds import Function, Names, Text

# What v2.py overrides, calls, reads and mirrors.
V2 = (
    Names(
        "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
        (
            "_dummy_run",
            "batch_sharder",
            "decode_query_len",
            "device",
            "get_model",
            "max_num_reqs",
            "num_speculative_steps",
            "rejection_sampler",
            "req_states",
            "sampler",
            "speculative_config",
            "speculator",
        ),
    ),
    Names("vllm.v1.worker.gpu.sample.batch_shard:BatchShardMetadata", ("num_logits_per_rank",)),
    Names("vllm.v1.worker.gpu.sample.batch_shard:BatchSharder", ("tp_rank",)),
    Function(
        "vllm.v1.worker.gpu.sample.batch_shard:BatchSharder.shard_sampler_inputs",
        ("self", "input_batch", "grammar_output"),
    ),
    Function("vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens", ("self", "grammar_output")),
    Function(
        "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample",
        ("self", "hidden_states", "input_batch", "grammar_output"),
    ),
    Names("vllm.v1.worker.gpu.input_batch:InputBatch", ("idx_mapping", "num_draft_tokens")),
    # What a request has emitted, on the device (v2_states.py).
    Names("vllm.v1.worker.gpu.states:RequestState", ("all_token_ids", "device", "max_num_reqs", "total_len")),
    Function(
        "vllm.v1.worker.gpu.states:RequestState.add_request",
        ("self", "req_id", "prompt_len", "all_token_ids", "num_computed_tokens", "max_tokens"),
    ),
    Function("vllm.distributed.communication_op:tensor_model_parallel_all_reduce", ("input_",)),
    Function(
        "vllm.v1.worker.gpu.spec_decode.ngram.speculator:NgramGPUSpeculator.propose",
        (
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
    ),
    # The one speculator that fills; its filler is its argument `last_sampled` (v2_fillers.py).
    Text("vllm.v1.worker.gpu.spec_decode.ngram.speculator:_ngram_finalize_kernel", ("9c4611f0172f440e",)),
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
        ("min_p", "seeds", "temperature", "top_k", "top_p", "vocab_size"),
    ),
    Function("vllm.v1.worker.gpu.sample.states:SamplingStates.add_request", ("self", "req_idx", "sampling_params")),
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
    Function("vllm.v1.worker.gpu.buffer_utils:StagedWriteTensor.stage_write_elem", ("self", "index", "x")),
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
    # v2.py follows the chunks of rows that it makes, and says _verify again.
    Text("vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler.__call__", ("e99b3bc562159cf7",)),
    Text(
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler:RejectionSampler._verify",
        ("99b80e0119dd3836", "0f120715b6e5140a"),
    ),
)
