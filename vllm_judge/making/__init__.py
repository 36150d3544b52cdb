"""From a recipe to a served head: every step is a command of `vllm-judge`, in a process of its own."""
