"""What the user of `vllm-judge court` chooses among; without imports, so that the command starts at once."""

from enum import StrEnum

HELD_OUT = 0.2


class Check(StrEnum):
    """How a final answer is compared with the reference."""

    number = "number"
    math = "math"
    choice = "choice"
    exact = "exact"
    names = "names"


class Split(StrEnum):
    """What a question is for: fitting, or measuring and calibrating."""

    train = "train"
    held_out = "held_out"
