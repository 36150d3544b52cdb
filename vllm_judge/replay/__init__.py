"""`vllm-judge replay`: what strict verification and the judge accept of texts that someone else wrote."""
