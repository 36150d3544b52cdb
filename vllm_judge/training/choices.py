"""What the user of `vllm-judge train` chooses among; without imports, so that the command starts at once."""

from enum import StrEnum


class SourceName(StrEnum):
    """What computes hidden states."""

    vllm = "vllm"
    transformers = "transformers"


class Dtype(StrEnum):
    """What the target computes in; auto is the checkpoint's own choice."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Store(StrEnum):
    """What hidden states are stored in. bfloat16 loses nothing where the target computes in it."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Features(StrEnum):
    """What a head reads: the hidden state, what the target's own distribution said of the token, or both."""

    both = "both"
    hidden = "hidden"
    evidence = "evidence"
