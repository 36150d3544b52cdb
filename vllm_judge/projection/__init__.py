"""`vllm-judge project`: the speed-up that an acceptance would give on hardware that is not at hand."""
