"""The embedded trio: where it lies, and the speculative config of every way to run it."""

from pathlib import Path
from typing import Any

from vllm_judge.config import read_speculative_config

FOLDER = Path(__file__).parent
TARGET = FOLDER / "target"
JUDGE_JSON = FOLDER / "judge.json"
# Both heads are fitted on the same labels; the paper's reads the hidden state alone.
HEADS = {"evidence": FOLDER / "judge", "paper": FOLDER / "judge-paper"}

MAX_MODEL_LEN = 512
# The longest right solution has about 110 tokens; what is longer has gone astray.
MAX_NEW_TOKENS = 192


def strict_config(num_speculative_tokens: int | None = None) -> dict[str, Any]:
    """judge.json without its judge: vLLM's own speculative decoding, with as many draft tokens where None is given."""
    config, _ = read_speculative_config(JUDGE_JSON)
    return config if num_speculative_tokens is None else config | {"num_speculative_tokens": num_speculative_tokens}


def judge_config(
    num_speculative_tokens: int | None = None,
    head: str = "evidence",
    threshold: float | None = None,
) -> dict[str, Any]:
    """Judge decoding with one of the heads, at the head's own threshold where `threshold` is None."""
    section = {"model": str(HEADS[head])} | ({} if threshold is None else {"threshold": threshold})
    return strict_config(num_speculative_tokens) | {"judge": section}
