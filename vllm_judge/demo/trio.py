"""The embedded trios, one a world: where they lie, and the speculative config of every way to run them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_judge.config import read_speculative_config
from vllm_judge.demo.choices import World

MAX_MODEL_LEN = 512
# The longest right solution has about 150 tokens; what is longer has gone astray.
MAX_NEW_TOKENS = 192


@dataclass(frozen=True)
class Trio:
    """A target, a draft and judge heads of one world, in a folder."""

    folder: Path

    @property
    def target(self) -> Path:
        return self.folder / "target"

    @property
    def judge_json(self) -> Path:
        return self.folder / "judge.json"

    @property
    def heads(self) -> dict[str, Path]:
        """Both are fitted on the same labels; the paper's reads the hidden state alone."""
        return {"evidence": self.folder / "judge", "paper": self.folder / "judge-paper"}

    def strict_config(self, num_speculative_tokens: int | None = None) -> dict[str, Any]:
        """judge.json without its judge: vLLM's own speculative decoding; by default with as many draft tokens."""
        config, _ = read_speculative_config(self.judge_json)
        return config if num_speculative_tokens is None else config | {"num_speculative_tokens": num_speculative_tokens}

    def judge_config(
        self,
        num_speculative_tokens: int | None = None,
        head: str = "evidence",
        threshold: float | None = None,
    ) -> dict[str, Any]:
        """Judge decoding with one of the heads, at the head's own threshold where `threshold` is None."""
        section = {"model": str(self.heads[head])} | ({} if threshold is None else {"threshold": threshold})
        return self.strict_config(num_speculative_tokens) | {"judge": section}


FOLDER = Path(__file__).parent
TRIOS = {World.EASY: Trio(FOLDER), World.HARDER: Trio(FOLDER / "harder")}

# The easy world's is the demo.
DEMO = TRIOS[World.EASY]
TARGET, JUDGE_JSON, HEADS = DEMO.target, DEMO.judge_json, DEMO.heads
strict_config, judge_config = DEMO.strict_config, DEMO.judge_config
