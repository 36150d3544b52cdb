"""Folders of hidden states whose labels follow a known rule."""

from collections.abc import Callable
from pathlib import Path

import torch

from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.masks import AfterMistake
from vllm_judge.training.choices import Dtype, SourceName, Store
from vllm_judge.training.shards import Columns, Index, Settings, Shard, StoredAnswer, write_index, write_shard

QUESTIONS, ANSWERS, TOKENS = 150, 2, 20  # answers a question, tokens an answer
PER_SHARD = 100  # answers
HIDDEN = 24

Rule = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


def direction(size: int = HIDDEN + 4) -> torch.Tensor:
    """[H + 4], the direction of `along_direction`, in whitened features."""
    return torch.randn(size, generator=torch.Generator().manual_seed(99))


def along_direction(whitened: torch.Tensor, position: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Right where features [N, H + 4] lie on one side of a direction, give or take some noise; mistakes are rare."""
    noise = torch.randn(len(whitened), generator=generator)
    return whitened @ direction(whitened.shape[1]) + 0.5 * noise > -4.0


def by_position(whitened: torch.Tensor, position: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mistakes are the likelier the later a token comes, and nothing else counts."""
    return torch.rand(len(whitened), generator=generator) > 0.7 * (position + 1) / TOKENS


def by_question(whitened: torch.Tensor, position: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """All tokens of a question have the same features and the same label, at random: there is nothing to learn."""
    question = torch.arange(len(whitened)) // (ANSWERS * TOKENS)
    whitened.copy_(torch.randn(QUESTIONS, whitened.shape[1], generator=generator)[question])
    return (torch.rand(QUESTIONS, generator=generator) < 0.5)[question]


def make_hidden_states(folder: Path, rule: Rule, seed: int = 0) -> None:
    """Badly scaled features, of which the first knows the token's position; every fifth question is held out."""
    generator = torch.Generator().manual_seed(seed)
    count = QUESTIONS * ANSWERS * TOKENS
    position = torch.arange(TOKENS, dtype=torch.int32).repeat(QUESTIONS * ANSWERS)
    whitened = torch.randn(count, HIDDEN + 4, generator=generator)
    right = rule(whitened, position, generator)
    scale = torch.logspace(-2, 2, HIDDEN + 4)
    features = whitened * scale + 3.0 * scale
    features[:, HIDDEN + 2] -= 3.0 * scale[HIDDEN + 2]  # the margin: 0 or below is the target's own choice
    features[:, 0] += 0.1 * position.float().log1p() if rule is by_position else 0.0
    shards = []
    for first in range(0, QUESTIONS * ANSWERS, PER_SHARD):
        answers = [_answer(number, (number - first) * TOKENS) for number in range(first, first + PER_SHARD)]
        shards.append(Shard(file=f"shard-{len(shards):05}.safetensors", answers=answers))
    settings = Settings(
        target="target",
        revision=None,
        hidden_size=HIDDEN,
        source=SourceName.transformers,
        dtype=Dtype.float32,
        store=Store.float32,
        after=AfterMistake.ignored,
        held_out=0.2,
        sequences="planted",
    )
    write_index(folder, Index(settings=settings, left_out={}, shards=shards))
    start = 0
    for shard in shards:
        rows = slice(start, start + shard.tokens)
        columns = (features[rows, :HIDDEN], features[rows, HIDDEN:], right[rows], position[rows], position[rows])
        write_shard(folder, shard, Columns(*(column.clone() for column in columns)))
        start += shard.tokens


def _answer(number: int, start: int) -> StoredAnswer:
    question = number // ANSWERS
    split = Split.held_out if question % 5 == 0 else Split.train
    return StoredAnswer(id=str(number), question=str(question), split=split, start=start, stop=start + TOKENS)
