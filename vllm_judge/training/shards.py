"""Hidden states on disk: an index of what there is to be, and one safetensors file per shard, each whole or absent."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from vllm_judge.errors import JudgeError
from vllm_judge.tokencourt.choices import Split
from vllm_judge.tokencourt.masks import AfterMistake
from vllm_judge.training.choices import Dtype, SourceName, Store
from vllm_judge.training.sequences import Sequences

INDEX = "index.json"
# A shard is what a kill costs: so many bytes of hidden states and so many answers at most, one answer at least.
SHARD_BYTES = 256 << 20
SHARD_ANSWERS = 256


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredAnswer(_Record):
    """An answer's labelled tokens: rows [start, stop) of its shard."""

    id: str
    question: str
    split: Split
    start: int
    stop: int


class Shard(_Record):
    """One file, and the answers in it, in the order of the court file."""

    file: str
    answers: list[StoredAnswer]

    @property
    def tokens(self) -> int:
        """N, the rows of the file."""
        return self.answers[-1].stop


class Settings(_Record):
    """What decides the contents of a folder.

    Attributes:
        target, revision: the model; the revision is a commit of the Hub, None for a folder.
        hidden_size: H, what the target's output layer reads.
        source: what computes the hidden states.
        dtype: what the target computes in, as it was asked for.
        store: what hidden states are stored in.
        after: what tokens after a mistake are.
        held_out: share of questions held out.
        sequences: fingerprint of all token ids and labels.
    """

    target: str
    revision: str | None
    hidden_size: int
    source: SourceName
    dtype: Dtype
    store: Store
    after: AfterMistake
    held_out: float
    sequences: str


class Index(_Record):
    """What a folder of hidden states holds or will hold; `left_out`: by reason the ids of answers without a part."""

    settings: Settings
    left_out: dict[str, list[str]]
    shards: list[Shard]


@dataclass(frozen=True)
class Columns:
    """N labelled tokens.

    Attributes:
        hidden: [N, H] fp32 or bf16: each token's own row, as the output layer reads it.
        evidence: [N, 4] fp32, of the row before.
        right: [N] bool.
        position: [N] int32, the token's place in its answer, from 0.
        token: [N] int32, its id.
    """

    hidden: torch.Tensor
    evidence: torch.Tensor
    right: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor


def plan_shards(sequences: Sequences, bytes_per_token: int) -> list[Shard]:
    """Cuts sequences into shards, always the same way: a shard that is there need not be made again."""
    shards: list[Shard] = []
    answers: list[StoredAnswer] = []
    rows = 0
    for one in sequences.sequences:
        full = (rows + len(one.rows)) * bytes_per_token > SHARD_BYTES or len(answers) == SHARD_ANSWERS
        if answers and full:
            shards.append(_shard(len(shards), answers))
            answers, rows = [], 0
        stop = rows + len(one.rows)
        answers.append(StoredAnswer(id=one.id, question=one.question, split=one.split, start=rows, stop=stop))
        rows = stop
    return [*shards, _shard(len(shards), answers)]


def _shard(number: int, answers: list[StoredAnswer]) -> Shard:
    return Shard(file=f"shard-{number:05}.safetensors", answers=answers)


def read_index(folder: Path) -> Index:
    """The index of a folder.

    Raises:
        JudgeError: there is none, or it is damaged.
    """
    try:
        return Index.model_validate_json((folder / INDEX).read_bytes())
    except OSError as error:
        raise JudgeError(
            f"{folder} holds no hidden states ({INDEX}: {error.strerror}): `vllm-judge train hidden-states` makes them."
        ) from None
    except ValidationError:
        raise JudgeError(f"{folder / INDEX} is damaged: make the hidden states again in another folder.") from None


def write_index(folder: Path, index: Index) -> None:
    """Writes the index, which comes before all shards, or finds the very same one there.

    Raises:
        JudgeError: the folder holds other hidden states, or cannot be written.
    """
    if (folder / INDEX).exists():
        there = read_index(folder)
        settings = index.settings.model_dump()
        differing = [name for name, value in settings.items() if getattr(there.settings, name) != value]
        if there.shards != index.shards:
            differing.append("shards")
        if differing:
            raise JudgeError(
                f"{folder} holds hidden states of another run (different: {', '.join(differing)}): name another folder."
            )
        return
    temporary = folder / f".{INDEX}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(index.model_dump_json())
        temporary.replace(folder / INDEX)
    except OSError as error:
        raise JudgeError(f"{folder} cannot be written: {error.strerror}.") from None


def write_shard(folder: Path, shard: Shard, columns: Columns) -> None:
    """Writes a shard, whole or not at all.

    Raises:
        JudgeError: it cannot be written, such as on a full disk; the shards before are kept.
    """
    temporary = folder / f".{shard.file}.part"  # one name: what a kill leaves, the next run writes over
    try:
        save_file({name: tensor.contiguous() for name, tensor in vars(columns).items()}, temporary)
        temporary.replace(folder / shard.file)
    except (OSError, SafetensorError) as error:
        raise JudgeError(
            f"{folder / shard.file} cannot be written: {error}. The shards before are kept; make room and run again."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
