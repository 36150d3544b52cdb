"""An OpenAI-compatible endpoint, asked many things at once."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Message

J = TypeVar("J")
# A server that is down fails every request: so many failures in a row end the run instead of going through the rest.
FAILURES_IN_A_ROW = 20


class RequestError(RuntimeError):
    """One request that came to nothing.

    The message says why in a few words, the same words for the same reason; `detail` is what the endpoint said.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.detail = detail


class _Said(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    """What is read of a chat completion's choice: the text and why it ended there (`stop`, `length`)."""

    message: _Said
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.message.content or ""


class _Reply(BaseModel):
    choices: list[Choice]


class Endpoint:
    """A chat model behind an OpenAI-compatible endpoint, such as `vllm serve`.

    Args:
        url: with the version, such as http://localhost:8000/v1.
        model: the name that the endpoint knows it by.
        timeout: seconds that one request may take.
        retries: how often a request is repeated, after growing pauses, when the endpoint is busy, broken or silent.

    The key is what the environment variable OPENAI_API_KEY holds.

    Raises:
        JudgeError: the package openai is not installed.
    """

    def __init__(self, url: str, model: str, timeout: float = 120.0, retries: int = 5):
        try:
            import openai
        except ImportError:
            raise JudgeError("openai is not installed: pip install 'vllm-judge-decoding[court]'.") from None
        self.url, self.model = url, model
        self._openai = openai
        # A key is required by the client, not by a server of one's own.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)

    async def complete(self, messages: Sequence[Message], **options: Any) -> Choice:
        """The model's answer to a chat.

        Args:
            messages: the chat.
            options: of the chat completion: temperature, max_tokens, seed, response_format.

        Raises:
            RequestError: no usable reply, after all retries.
            JudgeError: the endpoint refuses every request: a wrong key, model or address.
        """
        chat: Any = [message.model_dump() for message in messages]
        create = self._client.chat.completions.with_raw_response.create
        try:
            raw = await create(model=self.model, messages=chat, **options)
        except self._openai.APITimeoutError:
            raise RequestError("timed out") from None
        except self._openai.APIConnectionError:
            raise RequestError("cannot be reached") from None
        except self._openai.APIStatusError as error:
            if error.status_code in (401, 403, 404):
                raise JudgeError(f"{self.url} refuses requests to the model {self.model}: {error.message}") from None
            raise RequestError(f"answers HTTP {error.status_code}", error.message) from None
        try:
            choices = _Reply.model_validate_json(raw.http_response.content).choices
        except ValidationError:
            raise RequestError("answers something that is no chat completion") from None
        if not choices or not choices[0].text.strip():
            raise RequestError("answers nothing")
        return choices[0]

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()


async def ask_all(
    jobs: Iterable[J], ask: Callable[[J], Awaitable[None]], concurrency: int, advance: Callable[[], None]
) -> Counter[str]:
    """Does all jobs, a limited number at a time.

    Args:
        jobs: what is to be asked.
        ask: asks one and keeps what comes back; it may raise RequestError.
        concurrency: how many jobs are under way at a time.
        advance: called after every job.

    Returns:
        How many jobs failed, by reason.

    Raises:
        JudgeError: from `ask`, or after many failures in a row.
    """
    waiting = iter(jobs)
    failures: Counter[str] = Counter()
    in_a_row = 0

    async def work() -> None:
        nonlocal in_a_row
        for job in waiting:
            try:
                await ask(job)
                in_a_row = 0
            except RequestError as error:
                failures[str(error)] += 1
                in_a_row += 1
                if in_a_row >= FAILURES_IN_A_ROW:
                    said = f": {error.detail}" if error.detail else "."
                    raise JudgeError(f"the endpoint failed {in_a_row} times in a row: it {error}{said}") from None
            advance()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return failures
