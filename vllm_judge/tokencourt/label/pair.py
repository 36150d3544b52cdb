"""A target and its draft in vLLM, as mining uses them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm_judge.errors import JudgeError


@dataclass(frozen=True)
class Written:
    """What the target wrote.

    Attributes:
        ids: its tokens, an end token included.
        ended: whether it came to an end, and was not cut at a limit.
    """

    ids: list[int]
    ended: bool


@dataclass(frozen=True)
class VllmPair:
    """Both models as `vllm.LLM`, greedy.

    Attributes:
        target, draft: the engines.
        prefix_cache: whether the target takes what it has read before from its prefix cache.
    """

    target: Any
    draft: Any
    prefix_cache: bool = True

    @classmethod
    def load(cls, target: str, draft: str, engine: dict[str, Any], draft_engine: dict[str, Any]) -> "VllmPair":
        """Starts both engines; `engine` and `draft_engine` are options of vLLM's `LLM`.

        Raises:
            JudgeError: vLLM is not installed, or an engine does not start.
        """
        return cls(
            _start(target, engine, enable_prefix_caching=True),
            _start(draft, draft_engine),
        )

    def close(self) -> None:
        """Stops both engines."""
        from vllm_judge.engine import offline

        for llm in (self.target, self.draft):
            offline.stop(llm)

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have in both models."""
        return int(min(self.target.model_config.max_model_len, self.draft.model_config.max_model_len))

    def finish(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[Written]:
        """Has the target write on from each prompt to the end, at most so many tokens (at least 1).

        Raises:
            JudgeError: the engine died.
        """
        from vllm import SamplingParams

        skip = not self.prefix_cache
        params = [
            SamplingParams(temperature=0.0, max_tokens=limit, detokenize=False, skip_reading_prefix_cache=skip)
            for limit in limits
        ]
        completions = [output.outputs[0] for output in _generate(self.target, prompts, params)]
        return [Written(list(one.token_ids), one.finish_reason == "stop") for one in completions]

    def draft_tokens(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[list[int]]:
        """For each answer of N > 0 tokens N token ids: what the draft would have written at each place of it.

        The last is what it writes behind the answer without its last token, the others are the most probable tokens
        of that text.

        Raises:
            JudgeError: the engine died.
        """
        from vllm import SamplingParams

        texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        found = []
        for prompt, output in zip(prompts, _generate(self.draft, texts, params), strict=True):
            places = output.prompt_logprobs[len(prompt) :]
            best = [next(token for token, one in place.items() if one.rank == 1) for place in places]
            found.append([*best, output.outputs[0].token_ids[0]])
        return found


def _start(model: str, engine: dict[str, Any], **ours: Any) -> Any:
    try:
        from vllm_judge.engine import offline
    except ImportError:
        raise JudgeError("vLLM is not installed: mining needs it.") from None
    return offline.start(model=model, **{**engine, **ours})


def _generate(llm: Any, prompts: Sequence[list[int]], params: Any) -> list[Any]:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return list(llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False))
    except EngineDeadError:
        model = llm.model_config.model
        raise JudgeError(f"the engine of {model} died: its log above says why; run again to go on.") from None
