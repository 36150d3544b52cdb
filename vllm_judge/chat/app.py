"""The page's server: asks the served target, and passes on what it streams."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import httpx
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vllm_judge.chat.kinds import kinds_of
from vllm_judge.errors import JudgeError
from vllm_judge.page.local import local_app, page

PAGE = Path(__file__).with_name("page.html")
LONGEST_REASON = 300  # characters of what a server says
LONGEST_LINE = 2**20  # bytes of one event


class Asked(BaseModel):
    """What the page asks: one question, to be answered in one way; what is None is the server's to say."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=100_000)
    judged: bool
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    scope: Literal["thinking"] | None = None
    mode: Literal["shadow"] | None = None
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(default=256, ge=1, le=16_384)


def served_model(url: str) -> str:
    """The first model of an OpenAI-compatible server.

    Raises:
        JudgeError: nothing answers there, or not in that form.
    """
    try:
        reply = httpx.get(f"{url}/v1/models", timeout=10)
        return str(reply.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise JudgeError(f"--url {url} is no running `vllm serve`: {_short(error) or type(error).__name__}.") from None


def chat_app(url: str, model: str, name: str = "localhost") -> FastAPI:
    """The page and its interface.

    Args:
        url: the served target's, without /v1; model: its name there.
        name: this server's own, see `local_app`.
    """
    app = local_app("vllm-judge chat", name)

    @app.get("/")
    async def index() -> HTMLResponse:
        return page(PAGE)

    @app.get("/api/server")
    async def server() -> dict[str, str]:
        return {"url": url, "model": model}

    @app.post("/api/answer")
    async def answer(asked: Asked) -> StreamingResponse:
        return StreamingResponse(_lines(url, model, asked), media_type="application/x-ndjson")

    return app


async def _lines(url: str, model: str, asked: Asked) -> AsyncIterator[str]:
    """JSON lines: `pieces`, the texts of some tokens, as they come; then `done`, or `error`."""
    try:
        async for event in _answer(url, model, asked):
            yield json.dumps(event) + "\n"
    except Exception as error:  # what a server may say or do has no end
        yield (
            json.dumps({"error": f"the server at {url} did not answer: {_short(error) or type(error).__name__}"}) + "\n"
        )


async def _answer(url: str, model: str, asked: Asked) -> AsyncIterator[dict[str, Any]]:
    dial = {"judge_threshold": asked.threshold, "judge_scope": asked.scope, "judge_mode": asked.mode}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": asked.question}],
        "temperature": asked.temperature,
        "max_tokens": asked.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},  # metrics come with it
        "logprobs": True,  # tokens come with them
        "vllm_xargs": {name: value for name, value in dial.items() if value is not None}
        if asked.judged
        else {"judge": "false"},
    }
    num_tokens, metrics, times = 0, None, []
    undecoded = b""
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=600)) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply,
    ):
        if reply.status_code != 200:
            yield {"error": f"the server says: {_short((await reply.aread())[:4096].decode(errors='replace'))}"}
            return
        async for chunk in _events(reply):
            metrics = (chunk.get("metrics") or {}).get("speculative_decoding", metrics)
            choices = chunk.get("choices") or [{}]
            tokens = (choices[0].get("logprobs") or {}).get("content") or []
            if not tokens:
                continue
            times.append((time.monotonic(), num_tokens := num_tokens + len(tokens)))
            pieces = []
            for token in tokens:
                # A character may be spread over tokens: it is shown with the last of them.
                undecoded += bytes(token["bytes"] or [])
                piece, undecoded = _decoded(undecoded)
                pieces.append(piece)
            yield {"pieces": pieces}
    yield {"done": {"tokens": num_tokens, "speed": _speed(times), **asdict(kinds_of(num_tokens, metrics))}}


async def _events(reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; a line without an end is not waited for."""
    unfinished = b""
    async for data in reply.aiter_bytes():
        *lines, unfinished = (unfinished + data).split(b"\n")
        if len(unfinished) > LONGEST_LINE:
            raise ValueError(f"an event is longer than {LONGEST_LINE} bytes")
        for line in map(bytes.strip, lines):
            if not line.startswith(b"data:") or line == b"data: [DONE]":
                continue
            event = json.loads(line.removeprefix(b"data:"))
            if "error" in event:
                raise ValueError(str(event["error"]))
            yield event


def _decoded(data: bytes) -> tuple[str, bytes]:
    """The whole characters at the beginning of UTF-8, and the bytes of one that has only begun."""
    for kept in range(min(4, len(data) + 1)):
        try:
            return data[: len(data) - kept].decode(), data[len(data) - kept :]
        except UnicodeDecodeError:
            continue
    return data.decode(errors="replace"), b""


def _speed(times: list[tuple[float, int]]) -> float | None:
    """Tokens per second after the first ones came, so that the prompt, of which one answer may find the other's cache,
    does not count; None where all came at once."""
    if len(times) < 2:
        return None
    (start, first), (end, last) = times[0], times[-1]
    return (last - first) / max(end - start, 1e-9)


def _short(said: object) -> str:
    text = " ".join(str(said).split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
