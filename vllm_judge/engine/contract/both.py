"""What the hooks wrap, read and call, on either model runner."""

from vllm_judge.engine.contract.kinds import Function, Names

# What the hooks of hooks.py are put around.
HOOKED = (
    Function("vllm.engine.arg_utils:EngineArgs.add_cli_args", ("parser",)),
    Function("vllm.engine.arg_utils:EngineArgs.create_engine_config", ("self", "usage_context", "headless")),
    Function("vllm.sampling_params:SamplingParams._validate_spec_decode", ("self", "speculative_config")),
    Function("vllm.v1.engine.core:EngineCore.preprocess_add_request", ("self", "request")),
    Function(
        "vllm.v1.worker.worker_base:WorkerBase.__init__",
        ("self", "vllm_config", "local_rank", "rank", "distributed_init_method", "is_driver_worker"),
    ),
    Function(
        "vllm.v1.core.sched.scheduler:Scheduler.update_from_output",
        ("self", "scheduler_output", "model_runner_output"),
    ),
    Function(
        "vllm.v1.core.sched.scheduler:Scheduler.make_spec_decoding_stats",
        (
            "self",
            "spec_decoding_stats",
            "num_draft_tokens",
            "num_accepted_tokens",
            "num_invalid_spec_tokens",
            "request_id",
        ),
    ),
    Function(
        "vllm.v1.spec_decode.metrics:SpecDecodingProm.__init__",
        ("self", "speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"),
    ),
    Function(
        "vllm.v1.spec_decode.metrics:SpecDecodingProm.observe",
        ("self", "spec_decoding_stats", "engine_idx"),
    ),
    Function("vllm.v1.metrics.loggers:PrometheusStatLogger.log_engine_initialized", ("self",)),
    Function("vllm.v1.core.sched.scheduler:Scheduler.schedule", ("self", "throttle_prefills")),
    Function(
        "vllm.v1.core.sched.scheduler:Scheduler._update_request_with_output",
        ("self", "request", "new_token_ids", "is_stale"),
    ),
    Function("vllm.v1.metrics.stats:RequestSpecDecodeMetrics.to_dict", ("self",)),
    Function(
        "vllm.v1.sample.rejection_sampler:expand_batch_to_tokens",
        ("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"),
    ),
    Function(
        "vllm.v1.sample.rejection_sampler:apply_sampling_constraints",
        ("logits", "cu_num_draft_tokens", "sampling_metadata"),
    ),
)

# What the hooks read and call, on either runner.
BOTH = (
    Names("vllm.engine.arg_utils:EngineArgs", ("speculative_config",)),
    Names(
        "vllm.config.vllm:VllmConfig",
        (
            "lora_config",
            "model_config",
            "parallel_config",
            "reasoning_config",
            "speculative_config",
            "use_v2_model_runner",
            "watermark_config",
        ),
    ),
    Names(
        "vllm.config.model:ModelConfig",
        (
            "get_vocab_size",
            "hf_config",
            "hf_text_config",
            "is_diffusion",
            "return_sampling_mask",
            "runner_type",
            "skip_tokenizer_init",
            "try_get_generation_config",
        ),
    ),
    Names(
        "vllm.config.parallel:ParallelConfig",
        ("distributed_executor_backend", "enable_elastic_ep", "pipeline_parallel_size"),
    ),
    Names(
        "vllm.config.speculative:SpeculativeConfig",
        ("method", "model", "num_speculative_tokens", "rejection_sample_method"),
    ),
    Names("vllm.sampling_params:SamplingParams", ("all_stop_token_ids", "extra_args")),
    Names(
        "vllm.config.reasoning:ReasoningConfig",
        ("enabled", "natural_reasoning_end_token_ids", "reasoning_start_token_ids"),
    ),
    Names("vllm.v1.engine:EngineCoreRequest", ("external_req_id", "request_id", "sampling_params")),
    Names("vllm.v1.engine.core:EngineCore", ("vllm_config",)),
    Names("vllm.v1.worker.worker_base:WorkerBase", ("compile_or_warm_up_model", "load_model")),
    Function(
        "vllm.model_executor.layers.logits_processor:LogitsProcessor.forward",
        ("self", "lm_head", "hidden_states", "embedding_bias", "skip_gather"),
    ),
    Names("vllm.lora.layers", ("LogitsProcessorWithLoRA",)),
    Names("vllm.v1.worker.gpu_worker:Worker", ("model_runner",)),
    Names(
        "vllm.v1.core.sched.scheduler:Scheduler",
        ("num_spec_tokens", "requests", "spec_decode_metrics_level", "vllm_config"),
    ),
    Names("vllm.v1.request:Request", ("num_output_tokens", "request_id", "sampling_params", "spec_decode_metrics")),
    Names("vllm.v1.core.sched.output:SchedulerOutput", ("finished_req_ids", "scheduled_spec_decode_tokens")),
    Names("vllm.v1.outputs:ModelRunnerOutput", ("req_ids", "sampled_token_ids")),
    Names("vllm.v1.outputs:AsyncModelRunnerOutput", ("get_output",)),
    Names("vllm.v1.spec_decode.metrics:SpecDecodingProm", ("_counter_cls",)),
    Names(
        "vllm.v1.metrics.loggers:PrometheusStatLogger",
        ("_gauge_cls", "engine_indexes", "spec_decoding_prom", "vllm_config"),
    ),
)

# What offline.py asks step by step, and stops when a command ends.
OFFLINE = (
    Names("vllm.entrypoints.llm:LLM", ("enqueue",)),
    Names("vllm.outputs:CompletionOutput", ("spec_decode_metrics",)),
    Names("vllm.v1.engine.llm_engine:LLMEngine", ("engine_core", "has_unfinished_requests", "step")),
    Names("vllm.v1.engine.core_client:MPClient", ("shutdown",)),
    Names("vllm.v1.engine.core_client:SyncMPClient", ("output_queue_thread",)),
)
