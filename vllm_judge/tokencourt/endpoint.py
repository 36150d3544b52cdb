"""An OpenAI-compatible endpoint, asked many things at once."""

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError, field_validator

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.court import Message

J = TypeVar("J")
# A server that is down fails every request: so many failures in a row end the run instead of going through the rest.
FAILURES_IN_A_ROW = 20
OF_NO_USE = (401, 402, 403, 404)  # the next request would be refused too: no right, no credit, no such model
NO_COMPLETION = "answers something that is no chat completion"
LONGEST_REASON = 300  # characters of what a server says


class RequestError(RuntimeError):
    """One request that came to nothing; the message says why, behind "the endpoint", in the server's words if any."""


class _Said(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Some servers send the text in parts."""
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            return "".join(str(part.get("text", "")) for part in content)
        return content


class Choice(BaseModel):
    """What is read of a chat completion's choice: the text and why it ended there (`stop`, `length`)."""

    message: _Said
    finish_reason: str | None = None

    @field_validator("finish_reason", mode="before")
    @classmethod
    def _named(cls, reason: Any) -> Any:
        return reason if isinstance(reason, str) else None

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.message.content or ""

    @property
    def missing(self) -> str | None:
        """Why there is no text, None where there is."""
        if self.text.strip():
            return None
        if self.message.refusal:
            return "refuses to answer"
        if self.message.tool_calls or self.finish_reason == "tool_calls":
            return "calls a tool instead of answering"
        if self.finish_reason == "content_filter":
            return "filters the whole answer out"
        if self.message.reasoning_content or self.message.reasoning:
            ended = "comes to the token limit within" if self.finish_reason == "length" else "gives nothing but"
            return f"{ended} its reasoning"
        return "answers nothing"


class _Reply(BaseModel):
    choices: list[Choice] | None = None
    error: Any = None


class Endpoint:
    """A chat model behind an OpenAI-compatible endpoint, such as `vllm serve`.

    Args:
        url: with the version, such as http://localhost:8000/v1.
        model: the name that the endpoint knows it by.
        timeout: seconds that one request may take.
        retries: how often a request is repeated, after growing pauses, when the endpoint is busy, broken or silent.

    The key is what the environment variable OPENAI_API_KEY holds.

    Raises:
        JudgeError: the package openai is not installed, or the key or the address cannot be one.
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
        if not (key.isascii() and key.isprintable()):
            raise JudgeError("OPENAI_API_KEY holds a character that no key has: copy it anew.")
        if urlsplit(url).scheme not in ("http", "https"):
            raise JudgeError(f"an endpoint begins with http:// or https://, found {url!r}.")
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)

    async def complete(self, messages: Sequence[Message], **options: Any) -> Choice:
        """The model's answer to a chat.

        Args:
            messages: the chat.
            options: of the chat completion: temperature, max_tokens, seed, response_format.

        Raises:
            RequestError: no usable reply, after all retries.
            JudgeError: the endpoint refuses every request: a wrong key, no credit, no such model or address.
        """
        chat: Any = [message.model_dump() for message in messages]
        create = self._client.chat.completions.with_raw_response.create
        raw = await self._reply(create(model=self.model, messages=chat, **options))
        try:
            reply = _Reply.model_validate_json(raw.http_response.content)
        except ValidationError:
            raise RequestError(NO_COMPLETION) from None
        if reply.error:
            raise RequestError(f"answers an error{_reason(reply.error)}")
        if not reply.choices:
            raise RequestError("answers nothing")
        if missing := reply.choices[0].missing:
            raise RequestError(missing)
        return reply.choices[0]

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """What the endpoint says at one of its paths: to a body that is posted, or without one; raises as `complete`
        does."""
        from httpx import Response  # openai's own client

        asked = self._client.get if body is None else functools.partial(self._client.post, body=body)
        return bytes((await self._reply(asked(path, cast_to=Response))).content)

    async def _reply(self, asked: Awaitable[Any]) -> Any:
        try:
            return await asked
        except self._openai.APITimeoutError:
            raise RequestError("timed out") from None
        except self._openai.APIConnectionError:
            raise RequestError("cannot be reached") from None
        except self._openai.APIStatusError as error:
            said = f"HTTP {error.status_code}{_reason(error.body)}"
            if error.status_code in OF_NO_USE:
                raise JudgeError(f"{self.url} refuses requests to the model {self.model}: {said}") from None
            raise RequestError(f"answers {said}") from None
        except (self._openai.OpenAIError, ValueError):
            raise RequestError(NO_COMPLETION) from None

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()


def _reason(said: Any) -> str:
    """What a server says of an error, in a line; nothing where it is a page of a proxy's."""
    if isinstance(said, dict):
        inner = said.get("error", said)
        said = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = " ".join(str(said or "").split())
    return f": {text[:LONGEST_REASON]}" if text and not text.startswith("<") else ""


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
                    raise JudgeError(f"the endpoint failed {in_a_row} times in a row: it {error}.") from None
            advance()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return failures
