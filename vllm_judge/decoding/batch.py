"""The cycles of speculative decoding, texts side by side: who drafts, who verifies, which rules go on together."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TopPLogitsWarper

from vllm_judge.decoding.rules import Acceptance, Step
from vllm_judge.decoding.side_by_side import SideBySide
from vllm_judge.kernels.reference import Verification, allowed, strict_test, verify


@dataclass(frozen=True)
class Request:
    """A prompt to decode under some rules.

    Attributes:
        prompt_ids: at least one token.
        rules: each accepts drafts beyond the strict test; it is asked for tokens it may not accept, in vain.
        seed: of the random numbers, which the rules share.
    """

    prompt_ids: Sequence[int]
    rules: Sequence[Acceptance]
    seed: int = 0


@dataclass
class Decoded:
    """A generation and how it came about.

    Attributes:
        tokens: the generated tokens, up to and with the first end-of-sequence token.
        cycles: accepted draft tokens of each target verification, the target's own token not counted. As in vLLM, a
            cycle counts whole even where the text ends inside it.
        judge_only: accepted draft tokens that the strict test alone would have rejected.
        probabilities: how many of the drafts that the judge decided on lie in each bucket of its probability; None
            where that is not counted.
    """

    tokens: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    judge_only: int = 0
    probabilities: list[int] | None = None


@dataclass
class _Running:
    """A request under way, one generation a rule, and how many are still being written."""

    index: int
    request: Request
    noise_seed: int
    decoded: list[Decoded]
    unfinished: int

    @classmethod
    def begin(cls, index: int, request: Request) -> "_Running":
        generator = torch.Generator().manual_seed(request.seed)
        noise_seed = int(torch.randint(2**62, (), generator=generator))
        return cls(index, request, noise_seed, [Decoded() for _ in request.rules], len(request.rules))


@dataclass(frozen=True)
class _Text:
    """What some rules have made of a prompt together, so far.

    Attributes:
        running: the request.
        tokens: the prompt's, and those that follow.
        rules: indices of the request's rules.
    """

    running: _Running
    tokens: list[int]
    rules: list[int]


@dataclass
class Batch:
    """Texts side by side: text i is in row i of both models. Arguments as for `decode_under`.

    Args:
        protected: [V] bool, on the target's device; what only the strict test may accept, the ends too.
    """

    target: SideBySide
    draft: SideBySide
    num_drafts: int
    max_new_tokens: int
    ends: frozenset[int]
    protected: torch.Tensor
    temperature: float
    top_p: float
    texts: list[_Text] = field(default_factory=list)

    @torch.inference_mode()
    def run(self, requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, list[Decoded]]]:
        """Decodes all requests; yields each one's index and generations as soon as they are done."""
        waiting = deque(enumerate(requests))
        while waiting or self.texts:
            first = len(self.texts)
            while waiting and self._has_place(waiting[0][1], batch_size):
                running = _Running.begin(*waiting.popleft())
                rules = list(range(running.unfinished))
                self.texts.append(_Text(running, list(running.request.prompt_ids), rules))
            if self.texts[first:]:
                new = slice(first, len(self.texts))
                self._read_prompts(new)
                yield from self._cycle(new, 0)
            if self.texts:
                yield from self._cycle(slice(0, len(self.texts)), self.num_drafts)

    def _has_place(self, request: Request, batch_size: int) -> bool:
        """Whether every rule could go its own way beside the others: no text ever waits, to be read anew, for a row."""
        return not self.texts or sum(len(text.rules) for text in self.texts) + len(request.rules) <= batch_size

    def _read_prompts(self, rows: slice) -> None:
        """Both models read all of the prompts but their last tokens, with which the first cycle begins."""
        known = [text.tokens[:-1] for text in self.texts[rows]]
        longest = max(map(len, known))
        if longest:
            tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in known])
            for model in (self.target, self.draft):
                model.logits(rows, tokens, torch.zeros(len(known), dtype=torch.long), keep=1)

    def _cycle(self, rows: slice, num_drafts: int) -> Iterator[tuple[int, list[Decoded]]]:
        """Takes the texts in some rows one cycle further; yields the requests that are done by it."""
        texts = self.texts[rows]
        last = torch.tensor([text.tokens[-1:] for text in texts])
        lengths = torch.tensor([len(text.tokens) for text in texts])
        drafts, draft_logits = self._draft(rows, num_drafts)
        unread = torch.cat([last, drafts], dim=1)
        logits, hidden = self.target.logits_and_states(rows, unread, lengths - 1, keep=num_drafts + 1)
        drafts, draft_logits = drafts.to(logits.device), draft_logits.to(logits.device)
        read = zip(logits, self._processed(logits), draft_logits, hidden, drafts, strict=True)
        following = [self._go_on(text, self._verify(text, *one)) for text, one in zip(texts, read, strict=True)]
        self._arrange([*([text] for text in self.texts[: rows.start]), *following])
        done = {text.running.index: text.running for text in texts if not text.running.unfinished}
        yield from ((index, running.decoded) for index, running in done.items())

    def _draft(self, rows: slice, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The draft model's greedy continuations of N texts, [N, count], and their logits [N, count, W] fp32."""
        texts = self.texts[rows]
        drafts = torch.empty(len(texts), 0, dtype=torch.long)
        if not count:
            return drafts, torch.empty(len(texts), 0, 0)
        # Where all drafts were accepted, the last of them is one that their own model has not read yet.
        unread = torch.tensor([text.tokens[-2:] for text in texts])
        lengths = torch.tensor([len(text.tokens) for text in texts])
        found = []
        for index in range(count):
            starts = lengths - 2 if index == 0 else lengths + index - 1
            found.append(self.draft.logits(rows, unread, starts, keep=1))
            unread = found[-1].argmax(dim=-1).cpu()
            drafts = torch.cat([drafts, unread], dim=1)
        return drafts, torch.cat(found, dim=1)

    def _processed(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, M + 1, V] what the target samples from: -inf outside the nucleus."""
        if self.temperature == 0.0:
            return logits
        logits = logits / self.temperature
        return TopPLogitsWarper(self.top_p)(None, logits.flatten(0, 1)).view_as(logits) if self.top_p < 1.0 else logits

    def _verify(
        self,
        text: _Text,
        logits: torch.Tensor,
        sampling_logits: torch.Tensor,
        draft_logits: torch.Tensor,
        hidden: torch.Tensor,
        drafts: torch.Tensor,
    ) -> list[tuple[Verification, list[int]]]:
        """One text's step, see `Step`: the results that its rules come to, and the rules that come to each."""
        sampled = self.temperature > 0.0
        noise: dict[str, Any] = _noise(logits, text.running.noise_seed + len(text.tokens)) if sampled else {}
        strict = strict_test(sampling_logits[:-1], drafts, temperature=self.temperature, uniform=noise.get("uniform"))
        step = Step(logits, sampling_logits, draft_logits, hidden, drafts, strict)
        permitted = allowed(logits[:-1], drafts, self.protected)
        found: dict[int, tuple[Verification, list[int]]] = {}
        known: dict[tuple[bool, ...], Verification] = {}
        for rule in text.rules:
            accepted = text.running.request.rules[rule](step) if len(drafts) else permitted
            mask = tuple(accepted.tolist())
            if mask not in known:
                scores = torch.where(accepted, torch.inf, -torch.inf)
                known[mask] = verify(
                    sampling_logits, drafts, scores, 0.0, permitted, temperature=self.temperature, **noise
                )
            found.setdefault(known[mask].num_accepted, (known[mask], []))[1].append(rule)
        return list(found.values())

    def _go_on(self, text: _Text, found: Sequence[tuple[Verification, list[int]]]) -> list[_Text]:
        """Keeps account of what rules came to; returns the texts that they go on with, if they do."""
        running, following = text.running, []
        prompt = len(running.request.prompt_ids)
        for result, rules in found:
            tokens = [*text.tokens, *result.tokens.tolist()]
            end = next((i for i, token in enumerate(tokens[len(text.tokens) :], 1) if token in self.ends), None)
            ended = end is not None or len(tokens) - prompt >= self.max_new_tokens
            for rule in rules:
                run = running.decoded[rule]
                if len(text.tokens) > prompt:
                    run.cycles.append(result.num_accepted)
                    run.judge_only += result.judge_only
                if ended:
                    last = len(tokens) if end is None else len(text.tokens) + end
                    run.tokens = tokens[prompt:last][: self.max_new_tokens]
            if ended:
                running.unfinished -= len(rules)
            else:
                following.append(_Text(running, tokens, rules))
        return following

    def _arrange(self, following: Sequence[Sequence[_Text]]) -> None:
        """Gives every text a row again, the first ones, where `following` says what each row's text became."""
        texts: list[_Text | None] = [None] * sum(map(len, following))
        moving = []
        for row, of_row in enumerate(following):
            for text in of_row:
                if row < len(texts) and texts[row] is None:
                    texts[row] = text
                else:
                    moving.append((row, text))
        free = [row for row, text in enumerate(texts) if text is None]
        for model in (self.target, self.draft):
            model.copy([row for row, _ in moving], free)
        for row, (_, text) in zip(free, moving, strict=True):
            texts[row] = text
        self.texts = [text for text in texts if text is not None]


def _noise(logits: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """The random numbers of `verify`, a function of the seed."""
    rows, vocab_size = logits.shape
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(rows, vocab_size + 1, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    uniform = uniform.to(logits.device)
    return {"uniform": uniform[:-1, -1], "gumbel": -(-uniform[:, :-1].log()).log()}
