"""`vllm-judge compare`: acceptance rules on the same prompts, accuracy against speed."""
