"""`vllm-judge report`: any results on one page."""
