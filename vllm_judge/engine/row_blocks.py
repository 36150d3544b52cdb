"""Functions of rows of logits [rows, V] in blocks of rows, so that what they allocate is bounded."""

from collections.abc import Callable

import torch

# vLLM measures free memory before a step has verified anything (a profile run judges nothing), so what verification
# allocates beside the logits has to be small whatever the batch. The functions used here hold at most four fp32
# temporaries of a block's size: 64 MiB, or four rows' where a row is larger.
BLOCK_BYTES = 16 * 2**20


def by_row(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """`function(logits, tokens)`, whose result for a row depends on that row alone, a block of rows at a time.

    Args:
        logits: [rows, V]; tokens: [rows].
    """
    rows = max(1, BLOCK_BYTES // (4 * logits.shape[-1]))
    if len(logits) <= rows:
        return function(logits, tokens)
    return torch.cat([function(*block) for block in zip(logits.split(rows), tokens.split(rows), strict=True)])
