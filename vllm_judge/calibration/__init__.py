"""`vllm-judge calibrate`: a head's threshold from a promise."""
