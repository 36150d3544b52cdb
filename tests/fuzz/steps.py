"""Random steps for the campaign: what `verification_batch.random_batch` makes, and then everything at its edge.

A step is drawn from its seed alone, so a seed is enough to have it again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from verification_batch import Batch, at_drafts, random_batch

TEMPERATURES = [0.0, 0.0, 0.0, 0.01, 0.7, 1.0, 1.3, 100.0, 1e6]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One block of the statistics and less, and several: of 8192 tokens each, of which none, one or some are left over.
SMALL_VOCABULARIES, LARGE_VOCABULARIES = [2, 3, 17, 64, 300], [8191, 8193, 20000]
MOST_DRAFTS = 128  # vLLM's MAX_SPEC_LEN
Spoil = Callable[[torch.Tensor, torch.Generator], object]
SPOILT = 0.12  # the share of rows, and of requests, that get something of each kind


@dataclass(frozen=True)
class Kind:
    """What is the same for all requests of a step."""

    num_drafts: list[int]
    temperatures: list[float]
    vocab_size: int
    hidden_size: int
    dtype: torch.dtype
    processed: bool
    draft_vocab_size: int | None
    with_evidence: bool
    row_padding: int
    shadow: bool = False
    markers: tuple[list[int], list[int]] | None = None

    @classmethod
    def draw(cls, rng: random.Random, num_reqs: int) -> "Kind":
        num_drafts, size = (
            [rng.choice([0, 1, 1, 2, 2, 3, 4, 6]) for _ in range(num_reqs)],
            rng.choice(SMALL_VOCABULARIES),
        )
        rare = rng.random()
        if rare < 0.02:
            num_drafts = [MOST_DRAFTS, 0, 1]
        elif rare < 0.05:
            num_drafts, size = num_drafts[: max(3, num_reqs // 8)], rng.choice(LARGE_VOCABULARIES)
        return cls(
            num_drafts,
            [rng.choice(TEMPERATURES) for _ in num_drafts],
            size,
            rng.choice([1, 7, 32, 192]),
            rng.choice(DTYPES),
            rng.random() < 0.5,
            rng.choice([None, None, size, max(2, size - rng.randrange(1, 9))]),
            rng.random() < 0.5,
            rng.choice([0, 0, 8]),
            rng.random() < 0.3,
            rng.choice([None, None, ([0], [1]), ([1, 0], [1, 1])]),
        )

    def batch(self, seed: int, spoil: Callable[[torch.Tensor], None] | None = None) -> Batch:
        options = {name: value for name, value in vars(self).items() if name not in ("num_drafts", "temperatures")}
        return random_batch(seed, self.num_drafts, self.temperatures, spoil=spoil, **options)

    def __str__(self) -> str:
        draft = {None: "no draft logits", self.vocab_size: "draft logits"}.get(
            self.draft_vocab_size, "narrow draft logits"
        )
        parts = [
            str(self.dtype).removeprefix("torch."),
            "processed" if self.processed else "raw",
            draft,
            "evidence" if self.with_evidence else "hidden states",
            *(["shadow"] if self.shadow else []),
            *(["scope"] if self.markers else []),
        ]
        return ", ".join(parts)


def step(seed: int, num_reqs: int) -> tuple[Kind, Batch]:
    """The step of a seed, of about `num_reqs` requests."""
    kind, rng = Kind.draw(random.Random(seed), num_reqs), torch.Generator().manual_seed(seed)
    batch = kind.batch(seed, lambda rows: spoil(rows, rng))
    _spoil_requests(batch, rng)
    return kind, batch


def spoil(rows: torch.Tensor, rng: torch.Generator) -> None:
    """Writes into some rows of logits what no sane model says."""
    for index in _chosen(len(rows), rng):
        SPOILS[_below(len(SPOILS), rng)](rows[index], rng)


def _anywhere(value: float) -> Spoil:
    def write(row: torch.Tensor, rng: torch.Generator) -> None:
        row[torch.rand(row.shape, generator=rng) < 0.4] = value

    return write


def _once(value: float) -> Spoil:
    def write(row: torch.Tensor, rng: torch.Generator) -> None:
        row[_below(len(row), rng)] = value

    return write


def _everywhere(value: float) -> Spoil:
    return lambda row, rng: row.fill_(value)


def _tie(row: torch.Tensor, rng: torch.Generator) -> None:
    row[[_below(len(row), rng) for _ in range(3)]] = row.nan_to_num(0.0, 0.0, 0.0).amax()


SPOILS: list[Spoil] = [
    _tie,
    lambda row, rng: row.mul_(1e3),
    lambda row, rng: row.mul_(1e-6),
    *(_once(value) for value in (torch.nan, torch.inf, -torch.inf, 3e4)),
    *(_anywhere(value) for value in (torch.nan, -torch.inf)),
    *(_everywhere(value) for value in (0.0, torch.nan, torch.inf, -torch.inf)),
]


def _spoil_requests(batch: Batch, rng: torch.Generator) -> None:
    """Hidden states that are no numbers; drafts that end early or lie at the vocabulary's edges, and are forbidden;
    thresholds beyond every score, or just at one."""
    x, bounds, states = batch.inputs, batch.bounds, batch.inputs["idx_mapping"].tolist()
    for index in _chosen(len(x["hidden"]), rng, SPOILT / 3):
        x["hidden"][index, _below(x["hidden"].shape[1], rng)] = _pick([torch.nan, torch.inf, -torch.inf], rng)
    edges = [0, min(t.shape[-1] for t in (x["target_logits"], x["draft_logits"]) if t is not None) - 1]
    for request in _chosen(len(bounds), rng):
        first, end = bounds[request]
        x["draft_sampled"][first + 1 + _below(end - first, rng) : end] = _pick([-1, *edges], rng)
    if x["draft_constrained"] is not None:
        x["draft_constrained"] = at_drafts(batch.constrained, x["draft_sampled"])
    for request in _chosen(len(bounds), rng, 2 * SPOILT):
        first, end = bounds[request]
        forbidden = int(x["draft_sampled"][first + _below(end - first, rng)].clamp(min=0))
        if _below(2, rng):
            x["protected"][forbidden] = True
        else:
            x["stop_token_ids"][states[request], 0] = forbidden
            x["num_stop_token_ids"][states[request]].clamp_(min=1)
    for request in _chosen(len(bounds), rng, 2 * SPOILT):
        own = x["hidden_rows"][bounds[request][1] - 1]
        at_a_score = float(x["hidden"][own].float() @ x["weight"] + x["bias"])
        x["threshold"][states[request]] = _pick([torch.inf, -torch.inf, torch.nan, 1e6, -1e6, at_a_score], rng)


def _chosen(num: int, rng: torch.Generator, share: float = SPOILT) -> list[int]:
    return (torch.rand(num, generator=rng) < share).nonzero().flatten().tolist()


def _below(num: int, rng: torch.Generator) -> int:
    return int(torch.randint(num, (1,), generator=rng))


def _pick(values: list[float], rng: torch.Generator) -> float:
    return values[_below(len(values), rng)]
