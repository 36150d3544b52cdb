"""`vllm-judge evaluate --mt-bench`: open questions, judged in pairs by a model."""
