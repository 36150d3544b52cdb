"""What verification on V1 allocates beside the logits is bounded, and its results do not depend on the blocks."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_judge.engine.row_blocks import BLOCK_BYTES, by_row
from vllm_judge.engine.v1 import _probability
from vllm_judge.kernels.reference import evidence


class Allocations(TorchDispatchMode):
    """The bytes of the largest tensor that is computed."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.largest = max(self.largest, tensor.nbytes)
        return result


def test_evidence_and_probabilities_of_many_rows_take_blocks_and_are_what_they_are_of_all_at_once():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 40_000, generator=generator) * 4
    tokens = torch.randint(0, 40_000, (300,), generator=generator)
    assert logits.nbytes > 2 * BLOCK_BYTES
    for function in (evidence, _probability):
        with Allocations() as blocks:
            found = by_row(function, logits, tokens)
        assert blocks.largest <= BLOCK_BYTES
        torch.testing.assert_close(found, function(logits, tokens), rtol=1e-6, atol=1e-6)


def test_a_row_larger_than_a_block_is_taken_alone():
    logits = torch.zeros(2, BLOCK_BYTES // 4 + 1)
    assert by_row(_probability, logits, torch.zeros(2, dtype=torch.long)).shape == (2,)
