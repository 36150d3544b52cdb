"""Labelled tokens as a fit reads them: everything but the hidden states in memory, those block by block from disk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.choices import Split
from vllm_judge.training.shards import Index, Shard, read_index

BLOCK_BYTES = 64 << 20  # of hidden states in fp32, in memory at a time


@dataclass(frozen=True)
class TokenTable:
    """N labelled tokens of a target with hidden size H.

    Attributes:
        folder: where the hidden states are.
        index: what the folder holds.
        evidence: [N, 4] fp32.
        right: [N] bool; False is a mistake.
        position: [N] int32, place in the answer, from 0.
        question: [N] int64, a number for each question.
        held_out: [N] bool.
        features: [N, H + 4] fp32, hidden states and then evidence, where they are in memory.
    """

    folder: Path
    index: Index
    evidence: np.ndarray
    right: np.ndarray
    position: np.ndarray
    question: np.ndarray
    held_out: np.ndarray
    features: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.right)

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.index.settings.hidden_size

    @property
    def mismatch(self) -> np.ndarray:
        """[N] bool: the target itself would have chosen another token."""
        return self.evidence[:, 2] > 0

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows in order: which ones, and their features [n, H + 4] fp32, hidden states and then evidence.

        Raises:
            JudgeError: a shard is damaged.
        """
        step = max(1, BLOCK_BYTES // (4 * self.hidden_size))
        if self.features is not None:
            for start in range(0, len(self), step):
                rows = slice(start, min(start + step, len(self)))
                yield rows, self.features[rows]
            return
        first = 0
        for shard in self.index.shards:
            with _open(self.folder, shard) as tensors:
                stored = tensors.get_slice("hidden")
                for start in range(0, shard.tokens, step):
                    stop = min(start + step, shard.tokens)
                    rows = slice(first + start, first + stop)
                    features = torch.empty(stop - start, self.hidden_size + self.evidence.shape[1])
                    features[:, : self.hidden_size] = stored[start:stop]
                    features[:, self.hidden_size :] = torch.from_numpy(self.evidence[rows])
                    yield rows, features
            first += shard.tokens

    def in_memory(self, rows: np.ndarray) -> "TokenTable":
        """The tokens that a mask [N] bool chooses, n of them, with features in memory: 4 * n * (H + 4) bytes.

        Raises:
            JudgeError: a shard is damaged.
        """
        features = torch.empty(int(rows.sum()), self.hidden_size + self.evidence.shape[1])
        first = 0
        for block_rows, block in self.blocks():
            chosen = block[torch.from_numpy(rows[block_rows])]
            features[first : first + len(chosen)] = chosen
            first += len(chosen)
        columns = ("evidence", "right", "position", "question", "held_out")
        return replace(self, features=features, **{name: getattr(self, name)[rows] for name in columns})


def load_table(folder: Path) -> TokenTable:
    """The labelled tokens of a folder that `hidden_states.extract` has finished.

    Raises:
        JudgeError: the folder holds no hidden states, is unfinished, or is damaged.
    """
    index = read_index(folder)
    missing = sum(not (folder / shard.file).exists() for shard in index.shards)
    if missing:
        raise JudgeError(
            f"{folder} is unfinished, {missing} of {len(index.shards)} shards are missing: "
            "run the same `vllm-judge train hidden-states` again."
        )
    columns: dict[str, list[np.ndarray]] = {"evidence": [], "right": [], "position": []}
    for shard in index.shards:
        with _open(folder, shard) as tensors:
            for name, parts in columns.items():
                parts.append(tensors.get_tensor(name).numpy())
    answers = [answer for shard in index.shards for answer in shard.answers]
    tokens = [answer.stop - answer.start for answer in answers]
    _, question = np.unique([answer.question for answer in answers], return_inverse=True)
    return TokenTable(
        folder,
        index,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
        question=np.repeat(question, tokens),
        held_out=np.repeat([answer.split == Split.held_out for answer in answers], tokens),
    )


def _open(folder: Path, shard: Shard) -> safe_open:
    path = folder / shard.file
    try:
        tensors = safe_open(path, framework="pt")
        found = tensors.get_slice("hidden").get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise JudgeError(
            f"{path} is damaged: {error}; delete it and run `vllm-judge train hidden-states` again."
        ) from None
    if found != shard.tokens:
        raise JudgeError(
            f"{path} holds {found} tokens and the index says {shard.tokens}: delete it and run "
            "`vllm-judge train hidden-states` again."
        )
    return tensors
