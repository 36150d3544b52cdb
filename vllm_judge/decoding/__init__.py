"""Decoding under any acceptance rule, in plain transformers: the reference of every measurement."""

BATCH_SIZE = 128  # texts side by side
