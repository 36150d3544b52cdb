"""The target's hidden states and evidence of all labelled tokens, from a court.jsonl to a folder of shards."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from vllm_judge.errors import JudgeError
from vllm_judge.progress import bar
from vllm_judge.tokencourt.choices import HELD_OUT
from vllm_judge.tokencourt.court import read_court
from vllm_judge.tokencourt.masks import AfterMistake
from vllm_judge.training.choices import Dtype, SourceName, Store
from vllm_judge.training.output_head import OutputHead
from vllm_judge.training.sequences import LabelledSequence, Sequences, make_sequences
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
    court: Path,
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
        court: labelled answers.
        target: a folder or Hub repository.
        folder: where the shards go.
        open_source: loads the target; called only where a shard is missing.
        source, dtype: what `open_source` loads, and what that computes in; kept in the index.
        store: what hidden states are stored in.
        max_length: longest sequence in tokens; by default the target's context.
        chat_template, after, held_out: see `make_sequences`.

    Raises:
        JudgeError: the target cannot be used, the folder holds other hidden states, or the disk is full.
        JudgeError: the court file cannot be read.
    """
    config, tokenizer = load_target(target)
    text = config.get_text_config()
    context = max_length or getattr(text, "max_position_embeddings", None)
    sequences = make_sequences(read_court(court), tokenizer, context, chat_template, after, held_out)
    settings = Settings(
        target=target,
        revision=getattr(config, "_commit_hash", None),
        hidden_size=text.hidden_size,
        source=source,
        dtype=dtype,
        store=store,
        after=after,
        held_out=held_out,
        sequences=sequences.fingerprint(),
    )
    shards = plan_shards(sequences, text.hidden_size * STORES[store].itemsize)
    index = Index(settings=settings, left_out=sequences.left_out, shards=shards)
    write_index(folder, index)
    _make_missing(folder, index, sequences, open_source, config)
    return index


def _make_missing(
    folder: Path, index: Index, sequences: Sequences, open_source: Callable[[], Source], config: PretrainedConfig
) -> None:
    missing = [shard for shard in index.shards if not (folder / shard.file).exists()]
    if not missing:
        return
    by_id = {one.id: one for one in sequences.sequences}
    head = OutputHead.load(index.settings.target, config)  # first: it may refuse the target, and loading that is slow
    loaded = open_source()
    head = head.to(loaded.dtype)
    with bar("shards", len(index.shards), len(index.shards) - len(missing)) as advance:
        for shard in missing:
            members = [by_id[answer.id] for answer in shard.answers]
            write_shard(folder, shard, _columns(shard, members, loaded, head, STORES[index.settings.store]))
            advance()


def _columns(
    shard: Shard, members: list[LabelledSequence], source: Source, head: OutputHead, store: torch.dtype
) -> Columns:
    states = source.hidden_states([one.ids for one in members])
    hidden = torch.cat([of[one.rows] for one, of in zip(members, states, strict=True)])
    if not hidden.isfinite().all():
        raise JudgeError(
            f"the target gives hidden states that are not finite ({shard.file}): let it compute in another --dtype."
        )
    before = torch.cat([of[[row - 1 for row in one.rows]] for one, of in zip(members, states, strict=True)])
    tokens = torch.tensor([one.ids[row] for one in members for row in one.rows])
    return Columns(
        hidden=hidden.to(store),
        evidence=head.evidence(before, tokens),
        right=torch.tensor([label for one in members for label in one.right]),
        position=torch.tensor([row - one.answer_start for one in members for row in one.rows], dtype=torch.int32),
        token=tokens.int(),
    )
