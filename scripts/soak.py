"""A served engine under everything at once: does each answer keep its rules, do the counters say what the answers say?

    python scripts/soak.py --minutes 10 [--json soak.json] [--seed 0]

The embedded harder pair behind `vllm serve`, judged, in two halves: roomy, where a seeded request has the same text as
in a quiet run; and cramped, with a cache too small (preemptions), prompts read in chunks and drafts cut short.
Requests of all kinds (soak_requests.py) run side by side, some of them streamed, some aborted. Every token of a greedy
answer is verified again by the target in transformers. At the end of a half, with nothing aborted, the answers' own
counts are held against /metrics. Last, a worker is killed under load: every request must end, and the server too.
Exit code 1 and a list where anything was not as it has to be.
"""

import argparse
import asyncio
import functools
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from soak_requests import Kind, body, kinds, prompts
from vllm_server import Server

from vllm_judge.demo.choices import World
from vllm_judge.demo.trio import TRIOS
from vllm_judge.measuring.provenance import about
from vllm_judge.replay.verifier import Verdicts, Verifier
from vllm_judge.training.choices import Dtype, SourceName
from vllm_judge.training.sources import open_source

TRIO = TRIOS[World.HARDER]
CONCURRENCY = 16
REPEATS = 6  # different requests of a kind
ABORTED = 0.1
STREAMED = 0.3
PATIENCE = 120.0  # seconds that a request may take before it counts as hung
TIE = 1e-3  # probabilities as near as that may fall on either side in another sum's order
GROWTH = 64 * 2**20  # bytes that a server's memory may move by between its middle and its end,
SETTLED = 200  # once it has run for so many seconds
THINKING = {"reasoning_start_str": "<|assistant|>", "reasoning_end_str": "."}
ROOMY = ["--max-num-batched-tokens", "8192"]
CRAMPED = ["--max-num-batched-tokens", "128", "--block-size", "32", "--num-gpu-blocks-override", "24"]
COMMON = ["--max-num-seqs", str(CONCURRENCY), "--per-request-spec-decode-metrics", "detailed"]
COMMON += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
# A model that knows no JSON would write spaces for ever where the grammar lets it.
COMMON += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
COUNTED = {"accepted": "num_accepted_draft_tokens", "judge_only": "num_judge_only_tokens", "cycles": "num_spec_steps"}


@dataclass
class Findings:
    """What a run shows.

    Attributes:
        requests: answered, by kind. aborted: so many. verified: tokens of answers that were verified again.
        faults: what must not be, in words.
    """

    requests: Counter[str] = field(default_factory=Counter)
    aborted: int = 0
    verified: int = 0
    faults: list[str] = field(default_factory=list)


class Soak:
    """Requests to one server, and what is found of its answers."""

    def __init__(self, server: Server, every: list[Kind], asked: list[str], verifier: Verifier, seeded: bool):
        self.server, self.kinds, self.asked, self.verifier, self.seeded = server, every, asked, verifier, seeded
        self.end = verifier.tokenizer.eos_token_id
        self.end_of_thinking = verifier.tokenizer.convert_tokens_to_ids(THINKING["reasoning_end_str"])
        self.findings = Findings()
        self.texts: dict[tuple[str, int], str] = {}  # of a kind's request, as it was first seen
        self.strict: dict[int, str] = {}  # the target's own, by prompt
        self.verdicts: dict[tuple[int, tuple[int, ...]], Verdicts] = {}
        self.said: Counter[str] = Counter()  # what answers count of themselves

    async def quiet(self) -> None:
        """One request after the other, whose texts are what a busy engine has to say too."""
        async with self._client() as client:
            for kind in self.kinds:
                for number in range(2):
                    await self.ask(client, kind, number, random.Random(0), aborts=False)

    async def busy(self, seconds: float, seed: int, aborts: bool) -> None:
        """Requests of all kinds side by side, for so long."""
        rng = random.Random(seed)
        end = time.monotonic() + seconds
        # Where several share a count, or a stop string has ended the answer, vLLM gives none with it.
        kinds = [kind for kind in self.kinds if aborts or not {"n", "stop"} & kind.options.keys()]

        async def one_after_the_other(client: httpx.AsyncClient, rng: random.Random) -> None:
            while time.monotonic() < end:
                await self.ask(client, rng.choice(kinds), rng.randrange(REPEATS), rng, aborts)

        async with self._client() as client:
            await asyncio.gather(
                *(one_after_the_other(client, random.Random(rng.random())) for _ in range(CONCURRENCY + 4))
            )

    async def ask(self, client: httpx.AsyncClient, kind: Kind, number: int, rng: random.Random, aborts: bool) -> None:
        """Asks, and holds the answer against its rules."""
        stream = not (kind.chat or kind.refused or "logprobs" in kind.options or "n" in kind.options)
        stream = stream and rng.random() < STREAMED
        abort = aborts and not kind.refused and rng.random() < ABORTED
        sent = body(kind, self.asked[number], number, stream or abort)
        if not self.seeded:
            del sent["seed"]
        path = "/v1/chat/completions" if kind.chat else "/v1/completions"
        where = f"{kind.name} {number}"
        try:
            if abort:
                async with client.stream("POST", path, json=sent) as reply:
                    left = rng.randrange(8)
                    async for _ in reply.aiter_lines():
                        if (left := left - 1) < 0:
                            break
                self.findings.aborted += 1
                return
            if sent.get("stream"):
                status, answer = await _streamed(client, path, sent)
            else:
                reply = await client.post(path, json=sent)
                status, answer = reply.status_code, reply.json()
        except httpx.TimeoutException:
            self.findings.faults.append(f"{where}: no answer in {PATIENCE:g} s")
            return
        except httpx.HTTPError as error:
            self.findings.faults.append(f"{where}: lost: {error!r}")
            return
        self.findings.requests[kind.name] += 1
        self.findings.faults += [f"{where}: {fault}" for fault in self._faults(kind, number, status, answer)]

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))

    def _faults(self, kind: Kind, number: int, status: int, answer: dict[str, Any]) -> list[str]:
        if kind.refused:
            said = answer.get("error", {}).get("message")
            return [] if status == 400 and said else [f"not refused: {status} {answer}"]
        if status != 200:
            return [f"{status} {answer}"]
        faults = []
        for choice in answer["choices"]:
            try:
                faults += [found] if (found := kind.keeps(choice)) else []
            except (ValueError, KeyError, TypeError) as error:
                faults.append(f"not as asked: {error!r}: {choice}")
        if "n" in kind.options:
            return faults
        choice = answer["choices"][0]
        if answer["metrics"] is None and "stop" in kind.options:
            return faults
        counted = answer["metrics"]["speculative_decoding"]
        for name, key in COUNTED.items():
            self.said[name] += counted[key]
        if kind.chat:
            return faults
        # The last verification counts whole, and the answer may end within it.
        if counted["num_judge_only_tokens"] < len(counted["judge_only_positions"]):
            faults.append(f"counts {counted['num_judge_only_tokens']}, places {counted['judge_only_positions']}")
        if kind.audited:
            faults += self._audit(kind, number, choice["token_ids"], counted["judge_only_positions"])
        if kind.repeats:
            faults += _differs(self.strict.setdefault(number, choice["text"]), choice["text"])
        if self.seeded:
            faults += _differs(self.texts.setdefault((kind.name, number), choice["text"]), choice["text"])
        return faults

    def _audit(self, kind: Kind, number: int, tokens: list[int], judge_only: list[int]) -> list[str]:
        """Every token again: the target's own choice, or one that the judge may accept and that is counted so."""
        key = number, tuple(tokens)
        if key not in self.verdicts:
            prompt = self.verifier.tokenizer(self.asked[number], add_special_tokens=False)["input_ids"]
            [self.verdicts[key]] = self.verifier.verify([(prompt, tokens)])
        found = self.verdicts[key]
        self.findings.verified += len(tokens)
        threshold = _threshold(kind, self.verifier.threshold)
        thinking = kind.options.get("vllm_xargs", {}).get("judge_scope") == "thinking"
        answer = tokens.index(self.end_of_thinking) if thinking and self.end_of_thinking in tokens else len(tokens)
        faults = []
        for place, strict in enumerate(found.strict):
            near = abs(found.probability[place] - found.preferred_probability[place]) < TIE
            if strict and place in judge_only and not near:
                faults.append(f"token {place} is the target's own and counted as the judge's")
            if strict or near:
                continue
            if not found.judge_probability[place] > threshold - TIE or tokens[place] == self.end:
                faults.append(f"token {place} is neither the target's choice nor the judge's")
            elif place >= answer:
                faults.append(f"token {place} is the judge's, behind the end of thinking at {answer}")
            elif place not in judge_only:
                faults.append(f"token {place} is the judge's alone and not counted")
        return faults


def _threshold(kind: Kind, default: float) -> float:
    given = kind.options.get("vllm_xargs", {})
    if given.get("judge") == "false" or given.get("judge_mode") == "shadow":
        return 1.0 + 2 * TIE
    return float(given.get("judge_threshold", default)) + (2 * TIE if given.get("judge_threshold") == 1 else 0)


def _differs(first: str, second: str) -> list[str]:
    return [] if first == second else [f"another text than before: {first!r}, {second!r}"]


async def _streamed(client: httpx.AsyncClient, path: str, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A stream put together; what it says instead, where it fails."""
    choice: dict[str, Any] = {"text": "", "token_ids": [], "finish_reason": None}
    metrics: dict[str, Any] | None = None
    async with client.stream("POST", path, json=sent) as reply:
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                return 500, chunk
            metrics = chunk.get("metrics") or metrics
            for part in chunk["choices"]:
                choice["text"] += part["text"]
                choice["token_ids"] += part.get("token_ids") or []
                choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    return 200, {"choices": [choice], "metrics": metrics}


class Memory:
    """What a server and its children hold, looked at every second."""

    def __init__(self, pid: int):
        self.process, self.samples = psutil.Process(pid), list[int]()

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            members = [self.process, *self.process.children(recursive=True)]
            self.samples.append(sum(_resident(one) for one in members))
            await asyncio.sleep(1)

    def growth(self) -> int:
        """Bytes from the middle third's median to the last's."""
        third = max(1, len(self.samples) // 3)
        return int(statistics.median(self.samples[-third:]) - statistics.median(self.samples[third : 2 * third]))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


async def half(soak: Soak, seconds: float, seed: int) -> dict[str, Any]:
    """A busy time with aborts, then one without, whose counters are compared."""
    memory = Memory(soak.server.pid)
    watching = asyncio.create_task(memory.watch())
    await soak.quiet()
    await soak.busy(0.75 * seconds, seed, aborts=True)
    await asyncio.sleep(2)  # what was aborted has ended
    before, soak.said = soak.server.counters(), Counter()
    await soak.busy(0.25 * seconds, seed + 1, aborts=False)
    await asyncio.sleep(2)
    after = soak.server.counters()
    watching.cancel()
    counted = {name: after[name] - before[name] for name in COUNTED}
    for name, value in counted.items():
        if value != soak.said[name]:
            soak.findings.faults.append(f"/metrics counts {value} {name}, the answers {soak.said[name]}")
    if len(memory.samples) >= SETTLED and memory.growth() > GROWTH:
        soak.findings.faults.append(f"memory grew by {memory.growth() / 2**20:.0f} MiB")
    return {
        "requests": dict(sorted(soak.findings.requests.items())),
        "aborted": soak.findings.aborted,
        "tokens_verified_again": soak.findings.verified,
        "preemptions": soak.server.totals()["vllm:num_preemptions"],
        "prefix_cache_hits": soak.server.totals()["vllm:prefix_cache_hits"],
        "counted": counted,
        "memory_mib": [round(sample / 2**20) for sample in memory.samples[:: max(1, len(memory.samples) // 20)]],
        "memory_growth_mib": round(memory.growth() / 2**20, 1),
        "faults": soak.findings.faults,
    }


async def killed(server: Server, asked: list[str]) -> dict[str, Any]:
    """A worker dies under load: requests end with an error, and the server ends."""
    kind = Kind("long", {"temperature": 0, "ignore_eos": True, "max_tokens": 300})
    faults = []
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        running = [asyncio.create_task(client.post("/v1/completions", json=body(kind, one, 0, False))) for one in asked]
        await asyncio.sleep(1)
        workers = [one for one in psutil.Process(server.pid).children(recursive=True) if "EngineCore" in one.name()]
        workers = workers or psutil.Process(server.pid).children()
        os.kill(workers[0].pid, signal.SIGKILL)
        start = time.monotonic()
        ended = await asyncio.gather(*running, return_exceptions=True)
        seconds = time.monotonic() - start
    statuses = Counter(one.status_code if isinstance(one, httpx.Response) else type(one).__name__ for one in ended)
    if any("Timeout" in str(status) for status in statuses):
        faults.append(f"requests hang after a worker's death: {dict(statuses)}")
    for _ in range(60):
        if not server.is_running():
            break
        await asyncio.sleep(1)
    else:
        faults.append("the server goes on without its worker")
    return {
        "requests_ended": {str(key): n for key, n in statuses.items()},
        "seconds": round(seconds, 1),
        "faults": faults,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    in_transformers = functools.partial(open_source, SourceName.transformers, str(TRIO.target), Dtype.float32, {})
    verifier = Verifier.load(str(TRIO.target), str(TRIO.heads["evidence"]), None, in_transformers)
    vocabulary = verifier.tokenizer.get_vocab()
    ordinary = sorted(token for word, token in vocabulary.items() if word.isalpha() and len(word) > 2)
    asked = prompts(REPEATS, arguments.seed)
    every = kinds(verifier.tokenizer.eos_token_id, ordinary, scopes=True)
    found: dict[str, Any] = {}
    config = json.dumps(TRIO.judge_config())
    options = [*COMMON, "--reasoning-config", json.dumps(THINKING)]
    for name, more in (("roomy", ROOMY), ("cramped", CRAMPED)):
        with Server(config, str(TRIO.target), [*options, *more]) as server:
            soak = Soak(server, every, asked, verifier, seeded=name == "roomy")
            found[name] = asyncio.run(half(soak, 30 * arguments.minutes, arguments.seed))
            if name == "cramped":
                found["killed"] = asyncio.run(killed(server, asked))
    faults = [f"{name}: {fault}" for name, part in found.items() for fault in part["faults"]]
    settings = {"minutes": arguments.minutes, "seed": arguments.seed, "concurrency": CONCURRENCY}
    if arguments.json:
        arguments.json.write_text(json.dumps(about(settings) | found, indent=2) + "\n", encoding="utf-8")
    for name, part in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in part.items() if key != "faults"))
    first = {fault.partition(":")[2].partition(" ")[0] + fault[-40:]: fault for fault in faults}
    print(*(fault[:500] for fault in first.values()), f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
