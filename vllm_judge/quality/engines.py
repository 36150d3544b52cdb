"""Engines as lm-eval's models: one that is served over HTTP, one in this process."""

import time
from abc import abstractmethod
from typing import Any, NoReturn

import aiohttp
import requests as http
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model

from vllm_judge.errors import JudgeError
from vllm_judge.quality.counters import Counters

HTTP_TIMEOUT = 3600  # seconds for one answer: a slow machine with many requests in flight
# vLLM counts a step a moment after it has handed out the step's tokens.
SETTLE_SECONDS = 0.5


class Engine(LM):
    """An engine with a judge, whose answers are timed and counted.

    Attributes:
        name: of the model.
        seconds, counted: wall-clock time of the last call for answers, and what the engine counted during it.
    """

    name: str
    seconds: float
    counted: Counters

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """lm-eval's call for the answers of all tasks."""
        before = self.counters()
        start = time.perf_counter()
        answers = self.answer(requests)
        self.seconds = time.perf_counter() - start
        time.sleep(SETTLE_SECONDS)
        self.counted = self.counters() - before
        return answers

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval calls the chat template's origin."""
        return self.name

    @abstractmethod
    def answer(self, asked: list[Instance]) -> list[str]:
        """The answers to lm-eval's requests, whose args are (prompt, generation arguments)."""

    @abstractmethod
    def counters(self) -> Counters:
        """The engine's totals."""

    @abstractmethod
    def arguments(self, dial: dict[str, Any], salt: str) -> dict[str, Any]:
        """Generation arguments that carry a request's dial, and a salt that keeps prefix caches apart."""

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        raise JudgeError("a likelihood was asked for, and only generated text can be judged.")

    loglikelihood_rolling = loglikelihood


class ServedEngine(Engine):
    """An engine behind `vllm serve`.

    Args:
        url: such as http://127.0.0.1:8000.
        model: the served model; None: the first one that the server names.
        chat: ask through chat completions, so that the server applies its chat template.
        max_tokens: where an answer is cut off, unless the task says.
        concurrency: requests in flight.

    Raises:
        JudgeError: no vLLM server answers there.
        JudgeError: it has no judge.
    """

    def __init__(self, url: str, model: str | None, chat: bool, max_tokens: int, concurrency: int):
        super().__init__()
        self.url = url.rstrip("/").removesuffix("/v1")
        self.name = model or self._served_model()
        self.counters()
        kind, path = ("local-chat-completions", "chat/completions") if chat else ("local-completions", "completions")
        self._lm: Any = get_model(kind).create_from_arg_obj(
            {
                "model": self.name,
                "base_url": f"{self.url}/v1/{path}",
                "tokenizer_backend": None,
                "tokenized_requests": False,
                "num_concurrent": concurrency,
                "max_gen_toks": max_tokens,
                "timeout": HTTP_TIMEOUT,
            }
        )
        self.apply_chat_template = self._lm.apply_chat_template

    def _served_model(self) -> str:
        try:
            return str(self._get("/v1/models").json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise JudgeError(f"{self.url}/v1/models names no model: say with --model what is served there.") from None

    def answer(self, asked: list[Instance]) -> list[str]:
        try:
            return self._lm.generate_until(asked)
        except (aiohttp.ClientError, http.RequestException, TimeoutError) as error:
            raise JudgeError(f"the server at {self.url} left a request without an answer: {error}") from None

    def counters(self) -> Counters:
        return Counters.parse(self._get("/metrics").text)

    def arguments(self, dial: dict[str, Any], salt: str) -> dict[str, Any]:
        return {"vllm_xargs": dial, "cache_salt": salt}

    def _get(self, path: str) -> http.Response:
        try:
            response = http.get(f"{self.url}{path}", timeout=60)
            response.raise_for_status()
        except http.RequestException as error:
            raise JudgeError(f"no vLLM server answers at {self.url}{path}: {error}") from None
        return response


class OfflineEngine(Engine):
    """A `vllm.LLM` in this process.

    Args:
        options: as `LLM` takes them, with a judge in `speculative_config`.
        chat: prompts come from the chat template.
        max_tokens: where an answer is cut off, unless the task says.

    Raises:
        JudgeError: vLLM or the judge refuses the options.
        JudgeError: the engine has no judge.
    """

    def __init__(self, options: dict[str, Any], chat: bool, max_tokens: int):
        from vllm_judge.engine import offline

        super().__init__()
        self.name = options["model"]
        self._llm = offline.start(**options, disable_log_stats=False)
        self._chat, self._max_tokens = chat, max_tokens
        self.counters()

    def answer(self, asked: list[Instance]) -> list[str]:
        from vllm import SamplingParams

        tokenizer = self._llm.get_tokenizer()
        prompts: list[Any] = []
        params = []
        for request in asked:
            prompt, arguments = request.args[0], dict(request.args[1])
            # A chat template writes the special tokens itself.
            ids = tokenizer.encode(prompt, add_special_tokens=not self._chat)
            prompts.append({"prompt_token_ids": ids, "cache_salt": arguments.pop("cache_salt")})
            arguments.pop("do_sample", None)  # as over HTTP, the temperature alone decides
            params.append(
                SamplingParams(
                    temperature=arguments.pop("temperature", 0.0),
                    max_tokens=arguments.pop("max_gen_toks", self._max_tokens),
                    stop=arguments.pop("until", None),
                    **arguments,
                )
            )
        return [output.outputs[0].text for output in self._llm.generate(prompts, params)]

    def counters(self) -> Counters:
        from prometheus_client import REGISTRY, generate_latest

        return Counters.parse(generate_latest(REGISTRY).decode())

    def arguments(self, dial: dict[str, Any], salt: str) -> dict[str, Any]:
        return {"extra_args": dial, "cache_salt": salt}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """lm-eval's call for a prompt."""
        tokenizer: Any = self._llm.get_tokenizer()
        return tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
