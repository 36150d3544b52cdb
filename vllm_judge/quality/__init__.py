"""`vllm-judge evaluate`: what the judge costs on lm-eval's tasks, on one engine."""
