"""The target's hidden states and evidence of all labelled tokens, from a court.jsonl to a folder of shards."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from vllm_judge import output_layer
from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt.choices import HELD_OUT
from vllm_judge.tokencourt.court import read_courts
from vllm_judge.tokencourt.masks import AfterMistake
from vllm_judge.training.choices import Dtype, SourceName, Store
from vllm_judge.training.sequences import Sequences, make_sequences
from vllm_judge.training.shards import Columns, Index, Settings, Shard, plan_shards, write_index, write_shard
from vllm_judge.training.sources import Source

STORES = {Store.float32: torch.float32, Store.bfloat16: torch.bfloat16}


def load_target(target: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and the tokenizer of a folder or Hub repository.

    Raises:
        JudgeError: one of them cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the target {target} cannot be loaded: {str(error).splitlines()[0]}") from None


def extract(
    courts: Sequence[Path],
    target: str,
    folder: Path,
    open_source: Callable[[], Source],
    *,
    source: SourceName = SourceName.vllm,
    dtype: Dtype = Dtype.auto,
    store: Store = Store.float32,
    max_length: int | None = None,
    chat_template: str | None = None,
    after: AfterMistake = AfterMistake.ignored,
    held_out: float = HELD_OUT,
) -> Index:
    """Writes the hidden states of every labelled token; called again, it makes the shards that are missing.

    Args:
        courts: files of labelled answers.
        target: a folder or Hub repository.
        folder: where the shards go.
        open_source: loads the target; called only where a shard is missing.
        source, dtype: what `open_source` loads, and what that computes in; kept in the index.
        store: what hidden states are stored in.
        max_length: longest sequence in tokens that the target can serve; by default its context.
        chat_template, after, held_out: see `make_sequences`.

    Raises:
        JudgeError: the target cannot be used, the folder holds other hidden states, or the disk is full.
        JudgeError: a court file cannot be read, or two hold one id.
    """
    config, tokenizer = load_target(target)
    text = config.get_text_config()
    hidden_size = output_layer.width(text)
    context = max_length or getattr(text, "max_position_embeddings", None)
    # The last token of a full context has no row of its own in a server: nothing can follow it.
    longest = None if context is None else context - 1
    sequences = make_sequences(read_courts(courts), tokenizer, longest, chat_template, after, held_out)
    settings = Settings(
        target=target,
        revision=getattr(config, "_commit_hash", None),
        hidden_size=hidden_size,
        source=source,
        dtype=dtype,
        store=store,
        after=after,
        held_out=held_out,
        sequences=sequences.fingerprint(),
    )
    shards = plan_shards(sequences, hidden_size * STORES[store].itemsize)
    index = Index(settings=settings, left_out=sequences.left_out, shards=shards)
    write_index(folder, index)
    _make_missing(folder, index, sequences, open_source)
    return index


def _make_missing(folder: Path, index: Index, sequences: Sequences, open_source: Callable[[], Source]) -> None:
    missing = [shard for shard in index.shards if not (folder / shard.file).exists()]
    if not missing:
        return
    by_id = {one.id: one for one in sequences.sequences}
    source = open_source()
    with bar("shards", len(index.shards), len(index.shards) - len(missing)) as advance:
        for shard in missing:
            members = [by_id[answer.id] for answer in shard.answers]
            hidden, said, _ = source.read(members)
            _check(hidden, index.settings, shard)
            columns = Columns(
                hidden=hidden.to(STORES[index.settings.store]),
                evidence=said,
                right=torch.tensor([label for one in members for label in one.right]),
                position=torch.tensor([row - one.answer_start for one in members for row in one.rows]).int(),
                token=torch.tensor([one.ids[row] for one in members for row in one.rows]).int(),
            )
            write_shard(folder, shard, columns)
            advance()


def _check(hidden: torch.Tensor, settings: Settings, shard: Shard) -> None:
    if hidden.shape[-1] != settings.hidden_size:
        raise JudgeError(
            f"the output layer of {settings.target} reads {hidden.shape[-1]} values a token, and its configuration "
            f"says {settings.hidden_size}: no head can be fitted on it."
        )
    if not hidden.isfinite().all():
        raise JudgeError(
            f"the target gives hidden states that are not finite ({shard.file}): let it compute in another --dtype."
        )
