"""What scripts/soak.py sends: one kind of request after the other, each with the rules that its answer has to keep."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_TOKENS = 96
CITIES = ["Lima", "Oslo", "Rome"]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": CITIES}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"sign": {"enum": ["+", "-"]}, "digit": {"enum": [1, 2, 3]}},
    "required": ["sign", "digit"],
    "additionalProperties": False,
}
PATTERN = r"[0-9]{2,4} [a-z]{3}"


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        name: what it is called in reports.
        options: what its body holds beside prompt, model and seed.
        keeps: of the answer's choice, whether it keeps the request's rules; what it does not, in words, or None.
        chat: whether it goes to the chat endpoint.
        audited: greedy and unconstrained, so that every token can be verified again by the target itself.
        repeats: whether its text is the same however busy the engine is and wherever cycles begin.
        refused: whether the engine has to refuse it (HTTP 400).
    """

    name: str
    options: dict[str, Any]
    keeps: Callable[[dict[str, Any]], str | None] = field(default=lambda choice: None)
    chat: bool = False
    audited: bool = False
    repeats: bool = False
    refused: bool = False


def _text(choice: dict[str, Any]) -> str:
    return choice["text"]


def _cut(choice: dict[str, Any]) -> bool:
    return choice["finish_reason"] == "length"


def _says_json(choice: dict[str, Any]) -> str | None:
    said = json.loads(_text(choice))
    ok = said["sign"] in ("+", "-") and said["digit"] in (1, 2, 3) and len(said) == 2
    return None if ok else f"not of the schema: {said}"


def _says_pattern(choice: dict[str, Any]) -> str | None:
    return None if re.fullmatch(PATTERN, _text(choice)) else f"not of the pattern: {_text(choice)!r}"


def _calls(choice: dict[str, Any]) -> str | None:
    calls = choice["message"]["tool_calls"]
    ok = calls and all(json.loads(call["function"]["arguments"])["city"] in CITIES for call in calls)
    return None if ok else f"no call of the tool: {choice['message']}"


def _without(words: list[str]) -> Callable[[dict[str, Any]], str | None]:
    def keeps(choice: dict[str, Any]) -> str | None:
        found = [word for word in words if word in _text(choice)]
        return f"says {found}" if found else None

    return keeps


def _only(tokens: set[int]) -> Callable[[dict[str, Any]], str | None]:
    def keeps(choice: dict[str, Any]) -> str | None:
        others = set(choice["token_ids"]) - tokens
        return f"tokens that are not allowed: {others}" if others else None

    return keeps


def _at_least(number: int) -> Callable[[dict[str, Any]], str | None]:
    def keeps(choice: dict[str, Any]) -> str | None:
        return None if len(choice["token_ids"]) >= number else f"{len(choice['token_ids'])} tokens of {number}"

    return keeps


def _has_logprobs(choice: dict[str, Any]) -> str | None:
    values = choice["logprobs"]["token_logprobs"]
    ok = len(values) == len(choice["token_ids"]) and all(value <= 1e-6 for value in values)
    return None if ok else "logprobs that are none"


def kinds(end: int, ordinary: list[int], scopes: bool) -> list[Kind]:
    """All of them.

    Args:
        end: the end-of-sequence token.
        ordinary: tokens of whole words, of which requests allow and forbid some.
        scopes: whether the engine knows a thinking part.
    """
    greedy, sampled = {"temperature": 0}, {"temperature": 0.8, "top_p": 0.95}
    some, banned = {*ordinary[:40], end}, ordinary[7]
    strict, shadow = {"judge": "false"}, {"judge_mode": "shadow"}
    made = [
        Kind("greedy", greedy, audited=True),
        Kind("a higher threshold", {**greedy, "vllm_xargs": {"judge_threshold": 0.9}}, audited=True),
        Kind("strict", {**greedy, "vllm_xargs": strict}, audited=True, repeats=True),
        Kind("threshold 1", {**greedy, "vllm_xargs": {"judge_threshold": 1}}, audited=True, repeats=True),
        Kind("shadow", {**greedy, "vllm_xargs": shadow}, audited=True, repeats=True),
        Kind("sampled", sampled),
        Kind("several", {**sampled, "n": 3}),
        Kind("penalties", {**greedy, "presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}),
        Kind("logprobs", {**greedy, "logprobs": 2}, _has_logprobs, audited=True),
        Kind("pattern", {**sampled, "structured_outputs": {"regex": PATTERN}}, _says_pattern),
        Kind("schema", {**greedy, "structured_outputs": {"json": SCHEMA}}, _says_json),
        Kind("tool", {**greedy, "tools": [TOOL], "tool_choice": "required"}, _calls, chat=True),
        Kind("stop", {**greedy, "stop": ["so "]}, _without(["so "])),
        Kind("bad words", {**greedy, "bad_words": ["is"]}, _without([" is "])),
        Kind("allowed tokens", {**sampled, "allowed_token_ids": sorted(some)}, _only(some)),
        Kind(
            "logit bias",
            {**greedy, "logit_bias": {str(banned): -100}},
            lambda choice: f"says {banned}" if banned in choice["token_ids"] else None,
        ),
        Kind("min tokens", {**greedy, "min_tokens": 90}, _at_least(90)),
        Kind("a wrong threshold", {**greedy, "vllm_xargs": {"judge_threshold": 7}}, refused=True),
        Kind("a wrong dial", {**greedy, "vllm_xargs": {"judge": "perhaps"}}, refused=True),
        Kind("a wrong mode", {**greedy, "vllm_xargs": {"judge_mode": "loud"}}, refused=True),
        Kind("no temperature", {"temperature": -1}, refused=True),
        Kind("too long", {**greedy, "max_tokens": 10**6}, refused=True),
    ]
    if scopes:
        made.append(Kind("thinking only", {**greedy, "vllm_xargs": {"judge_scope": "thinking"}}))
    return made


def body(kind: Kind, prompt: str, number: int, stream: bool) -> dict[str, Any]:
    """A request's body; the same number asks the same."""
    options = {"max_tokens": MAX_TOKENS, "seed": number, "return_token_ids": True, **kind.options}
    if kind.chat:
        options["messages"] = [{"role": "user", "content": prompt}]
    else:
        options["prompt"] = prompt
    if stream:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": "served", **options}


def prompts(count: int, seed: int) -> list[str]:
    """Problems of the harder world, half of them behind a shared beginning of several hundred tokens."""
    from vllm_judge.demo.choices import World
    from vllm_judge.demo.tokenizer import render_prompt
    from vllm_judge.demo.world import problems

    rng = random.Random(seed)
    asked = [problem.question for problem in problems(count + 4, seed, "test", World.HARDER)]
    shared, asked = " ".join(asked[:4]), asked[4:]
    return [render_prompt(f"{shared} {one}" if rng.random() < 0.5 else one) for one in asked]
