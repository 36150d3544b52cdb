"""What engine/prompt_states.py builds on: where either model runner computes prompt logprobs."""

from vllm_judge.engine.contract.kinds import Function, Names

_V1 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_V2 = "vllm.v1.worker.gpu.sample.prompt_logprob:PromptLogprobsWorker"

PROMPT_STATES = (
    Names("vllm.config.parallel:ParallelConfig", ("worker_extension_cls",)),
    # V1
    Function(f"{_V1}._get_prompt_logprobs_dict", ("self", "hidden_states", "num_scheduled_tokens")),
    Names(_V1, ("get_model", "input_batch", "query_start_loc", "requests")),
    Names("vllm.v1.worker.gpu_input_batch:InputBatch", ("req_id_to_index",)),
    Names("vllm.v1.worker.gpu_input_batch:CachedRequestState", ("num_computed_tokens", "sampling_params")),
    # V2
    Names("vllm.v1.worker.gpu.model_runner:GPUModelRunner", ("get_model", "prompt_logprobs_worker")),
    Function(f"{_V2}.add_request", ("self", "req_id", "req_idx", "sampling_params")),
    Function(f"{_V2}.remove_request", ("self", "req_id")),
    Function(
        f"{_V2}.compute_prompt_logprobs",
        (
            "self",
            "logits_fn",
            "hidden_states",
            "input_batch",
            "all_token_ids",
            "num_computed_tokens",
            "prompt_lens",
        ),
    ),
    Function(
        f"{_V2}.compute_prompt_token_id_logprobs", ("self", "logits_fn", "hidden_states", "input_batch", "prompt_lens")
    ),
    Names(
        "vllm.v1.worker.gpu.input_batch:InputBatch",
        ("num_computed_prefill_tokens_np", "num_scheduled_tokens", "query_start_loc_np", "req_ids"),
    ),
)
