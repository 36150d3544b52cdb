"""vLLM's `LLM` in this process, an engine a head."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_judge.calibration import checkpoint
from vllm_judge.calibration.sources import by_head, check_room, cycles, dial
from vllm_judge.comparison.answers import Contender
from vllm_judge.comparison.compare import Missing
from vllm_judge.config import SECTION
from vllm_judge.decoding.batch import Decoded
from vllm_judge.decoding.pair import Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.tokencourt.tokenizer import load_tokenizer

OURS = {"model", "per_request_spec_decode_metrics", "runner", "speculative_config"}
MAX_NUM_SEQS = 256  # vLLM's own default on most devices
MIN_BATCHED_TOKENS = 8192


class OfflineSource:
    """The engine that will serve: any drafter, size and parallelism that vLLM has.

    Args:
        target: folder or Hub repository.
        speculative_config: vLLM's own keys.
        engine: more options of vLLM's `LLM`.

    Raises:
        JudgeError: vLLM is not installed, an option is given that is set here, or the target has no tokenizer.
    """

    def __init__(self, target: str, speculative_config: Mapping[str, Any], engine: Mapping[str, Any]):
        try:
            import vllm
        except ImportError:
            raise JudgeError("vLLM is not installed: install it, or use --source transformers.") from None
        if ours := sorted(OURS & engine.keys()):
            raise JudgeError(f"--engine must leave out {', '.join(ours)}: the command sets that itself.")
        self.tokenizer = load_tokenizer(target, "--target")
        self._target, self._speculative, self._engine = target, dict(speculative_config), dict(engine)
        self.about = {"source": f"vllm.LLM, vLLM {vllm.__version__}", "engine": self._engine}

    def load_head(self, name: str) -> JudgeHead:
        return JudgeHead.from_pretrained(name)

    def identity(self) -> dict[str, Any]:
        target = checkpoint.fingerprint(self._target)
        return {"source": "vllm", "target": target, **drafter_identity(self._speculative), "engine": self._engine}

    def decode(
        self, chosen: Sequence[Contender], missing: Sequence[Missing], how: Sampling
    ) -> Iterator[tuple[Question, int, Decoded]]:
        from vllm import SamplingParams

        from vllm_judge.engine import offline

        for head, asked in by_head(chosen, missing):
            llm = offline.start(**self._options(head, how.num_speculative_tokens))
            try:
                check_room(asked, how, llm.model_config.max_model_len, "--engine")
                params = [
                    SamplingParams(
                        temperature=how.temperature,
                        max_tokens=how.max_new_tokens,
                        detokenize=False,
                        extra_args=dial(chosen[i]),
                    )
                    for _, i in asked
                ]
                prompts = [question.prompt_ids for question, _ in asked]
                for index, completion in offline.generate(llm, prompts, params):
                    yield *asked[index], _decoded(completion)
            finally:
                offline.stop(llm)

    def _options(self, head: str, num_drafts: int) -> dict[str, Any]:
        """Where an engine's step has too little room it trims drafts, and cycles come out that are not the config's:
        room for M drafts and M more slots, which some drafters need, for every request that runs."""
        requests = self._engine.get("max_num_seqs", MAX_NUM_SEQS)
        return {
            "max_num_seqs": requests,
            "max_num_batched_tokens": max(MIN_BATCHED_TOKENS, requests * (2 * num_drafts + 1)),
            **self._engine,
            "model": self._target,
            "speculative_config": {**self._speculative, SECTION: {"model": head}},
            "per_request_spec_decode_metrics": "summary",
        }


def drafter_identity(speculative_config: Mapping[str, Any]) -> dict[str, Any]:
    """What answers depend on of a drafter: its settings, and the weights that its `model` names."""
    model = speculative_config.get("model")
    settings = {name: value for name, value in speculative_config.items() if name != "model"}
    return {"draft": checkpoint.fingerprint(model) if model else None, "speculative_config": settings}


def _decoded(completion: Any) -> Decoded:
    counted = completion.spec_decode_metrics
    return Decoded(
        list(completion.token_ids),
        cycles(counted.histogram, counted.num_steps_without_drafts),
        counted.num_judge_only_tokens,
        counted.judge_probabilities,
    )
