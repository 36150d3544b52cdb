"""Draft tokens of a V1 step, which lie one request after another, by request and by place."""

import functools
from collections.abc import Iterator

import torch

# Steps of the same shape follow one another: what depends on it alone is made, and copied to the device, once.


@functools.lru_cache(maxsize=16)
def owners(num_drafts: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """[num_drafts] int64: for each draft token, its request's place in the batch."""
    found = [request for request, n in enumerate(num_drafts) for _ in range(n)]
    return torch.tensor(found, dtype=torch.long, device=device)


@functools.lru_cache(maxsize=16)
def places(num_drafts: tuple[int, ...], device: torch.device, width: int) -> torch.Tensor:
    """[num_drafts] int64: where each draft token stands in a flattened [num_requests, width]."""
    found = [request * width + i for request, n in enumerate(num_drafts) for i in range(n)]
    return torch.tensor(found, dtype=torch.long, device=device)


@functools.lru_cache(maxsize=16)
def of_requests(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """[num_requests, 1] fp32."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


@functools.lru_cache(maxsize=16)
def places_in_batch(rows: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """[num_rows] int64."""
    return torch.tensor(rows, dtype=torch.long, device=device)


def padded(values: torch.Tensor, num_drafts: tuple[int, ...], width: int, fill: int) -> torch.Tensor:
    """[num_requests, width]: values of draft tokens [num_drafts], a request a row, filled up behind them."""
    flat = values.new_full((len(num_drafts) * width,), fill)
    return flat.index_copy(0, places(num_drafts, values.device, width), values).view(len(num_drafts), width)


def spans(num_drafts: list[int]) -> Iterator[slice]:
    start = 0
    for n in num_drafts:
        yield slice(start, start + n)
        start += n
