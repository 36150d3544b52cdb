"""The reference decoder in plain transformers: it needs no vLLM, and vLLM's model runners are tested against it."""

from collections.abc import Iterator, Sequence
from typing import Any

from vllm_judge.comparison import compare
from vllm_judge.comparison.answers import Contender
from vllm_judge.comparison.compare import Missing
from vllm_judge.decoding.batch import Decoded
from vllm_judge.decoding.pair import Pair, Sampling, default_dtype
from vllm_judge.decoding.questions import Question
from vllm_judge.head import JudgeHead, fingerprint


class TransformersSource:
    """Both models in this process.

    Args:
        target, draft: folders or Hub repositories.
        batch_size, device_map: see `decode_under` and `load_model`.

    Raises:
        JudgeError: there is no such model, or their tokenizers differ.
    """

    def __init__(self, target: str, draft: str, batch_size: int, device_map: str | None):
        self._pair = Pair.load(target, draft, default_dtype(), device_map)
        self.tokenizer = self._pair.tokenizer
        self.about = {"source": "transformers"}
        self._batch_size = batch_size

    def load_head(self, name: str) -> JudgeHead:
        return self._pair.load_head(name)

    def identity(self) -> dict[str, Any]:
        models = {"target": self._pair.target, "draft": self._pair.draft}
        return {"source": "transformers", **{name: fingerprint(model) for name, model in models.items()}}

    def decode(
        self, chosen: Sequence[Contender], missing: Sequence[Missing], how: Sampling
    ) -> Iterator[tuple[Question, int, Decoded]]:
        return compare.decode(self._pair, chosen, missing, how, seed=0, batch_size=self._batch_size)
