"""Decoding under any acceptance rule, in plain transformers: the reference of every measurement."""
