"""What the user of `vllm-judge calibrate` chooses among; without imports, so that the command starts at once."""

NUM_DRAFTS = 16  # draft tokens per cycle of a draft model
CONCURRENCY = 128  # requests under way at a server
