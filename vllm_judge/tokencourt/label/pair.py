"""A target and its draft in vLLM, as the labels that they find themselves need them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vllm_judge.errors import JudgeError


@dataclass(frozen=True)
class Written:
    """What the target wrote.

    Attributes:
        ids: its tokens, an end token included.
        ended: whether it came to an end, and was not cut at a limit.
        log_probs: of each of these tokens, in nats, as the model gives it (before temperature); empty where not asked
            for.
    """

    ids: list[int]
    ended: bool
    log_probs: list[float] = field(default_factory=list)


class Place(NamedTuple):
    """What the target says at a place of a text: log p of the token there and of the most probable one, in nats."""

    own: float
    best: float


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
            _start(target, engine, enable_prefix_caching=True, logprobs_mode="raw_logprobs"),
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

    def finish(
        self, prompts: Sequence[list[int]], limits: Sequence[int], with_log_probs: bool = False
    ) -> list[Written]:
        """Has the target write on from each prompt to the end, at most so many tokens (at least 1).

        Raises:
            JudgeError: the engine died.
        """
        from vllm import SamplingParams

        skip, logprobs = not self.prefix_cache, 0 if with_log_probs else None
        common: dict[str, Any] = {"detokenize": False, "skip_reading_prefix_cache": skip, "logprobs": logprobs}
        params = [SamplingParams(temperature=0.0, max_tokens=limit, **common) for limit in limits]
        written = []
        for output in _generate(self.target, prompts, params):
            [one] = output.outputs
            ids = list(one.token_ids)
            places = one.logprobs or []
            log_probs = [place[token].logprob for token, place in zip(ids, places, strict=with_log_probs)]
            written.append(Written(ids, one.finish_reason == "stop", log_probs))
        return written

    def log_probs(self, texts: Sequence[list[int]], counts: Sequence[int]) -> list[list[Place]]:
        """For each text what the target says at the places of its last tokens, so many as `counts` says (at least 1).

        vLLM has these as prompt_logprobs, of all of a text's tokens that it computes: by itself it then reads nothing
        from the prefix cache. Told to read, it computes what is not there and gives that alone (model runner V2), or
        leaves unset what is missing (V1). The last tokens are what is wanted, so that is enough, as long as what was
        cached ends before them; where it does not, the text is computed whole.

        Raises:
            JudgeError: the engine died.
        """
        found = self._last_places(texts, counts, skip=not self.prefix_cache)
        missing = [index for index, places in enumerate(found) if not places]
        again = self._last_places([texts[i] for i in missing], [counts[i] for i in missing], skip=True)
        for index, places in zip(missing, again, strict=True):
            found[index] = places
        return found

    def _last_places(self, texts: Sequence[list[int]], counts: Sequence[int], skip: bool) -> list[list[Place]]:
        """The places of `log_probs`; of a text of which some were in the cache none."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False, skip_reading_prefix_cache=skip
        )
        found: list[list[Place]] = []
        for text, count, output in zip(texts, counts, _generate(self.target, texts, params), strict=True):
            first = len(text) - count
            computed = output.prompt_logprobs or []
            if output.num_cached_tokens >= first or len(computed) <= count:  # a token's place is the row before it
                found.append([])
                continue
            last = zip(text[first:], computed[-count:], strict=True)
            found.append([Place(row[token].logprob, max(one.logprob for one in row.values())) for token, row in last])
        return found

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
        raise JudgeError("vLLM is not installed: a pair that labels needs it.") from None
    return offline.start(model=model, **{**engine, **ours})


def _generate(llm: Any, prompts: Sequence[list[int]], params: Any) -> list[Any]:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return list(llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False))
    except EngineDeadError:
        model = llm.model_config.model
        raise JudgeError(f"the engine of {model} died: its log above says why; run again to go on.") from None
