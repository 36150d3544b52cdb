"""Times `vllm-judge train fit` on hidden states of any size: prints seconds, peak memory and AUC as a line of JSON.

    python scripts/bench_fit.py --tokens 30000 --hidden-size 16384 --work /some/scratch/folder

The hidden states are random, in the format of `train hidden-states`, and as ill conditioned as one may fear of real
ones: the k-th largest direction has a variance in proportion to 1 / k, and a few coordinates are far larger than all
others. One token in ten
is a mistake, as a planted direction says, give or take.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.fft import dct

from vllm_judge.head import EVIDENCE
from vllm_judge.tokencourt.choices import HELD_OUT, Split
from vllm_judge.tokencourt.masks import AfterMistake
from vllm_judge.training.choices import Dtype, SourceName, Store
from vllm_judge.training.hidden_states import STORES
from vllm_judge.training.shards import (
    SHARD_BYTES,
    Columns,
    Index,
    Settings,
    Shard,
    StoredAnswer,
    write_index,
    write_shard,
)

ANSWER_TOKENS = 50
LARGE_COORDINATES = 4
# Log-odds of a mistake: mean and spread, for about one token in ten and an AUC of about 0.9.
MEAN, SPREAD = 4.0, 3.0


def make_hidden_states(folder: Path, tokens: int, hidden_size: int, store: Store) -> None:
    """Writes the shards that are missing."""
    answers_per_shard = max(1, SHARD_BYTES // (STORES[store].itemsize * hidden_size * ANSWER_TOKENS))
    answers = [_answer(number, number % answers_per_shard) for number in range(tokens // ANSWER_TOKENS)]
    shards = [
        Shard(file=f"shard-{number:05}.safetensors", answers=answers[start : start + answers_per_shard])
        for number, start in enumerate(range(0, len(answers), answers_per_shard))
    ]
    settings = Settings(
        target="random",
        revision=None,
        hidden_size=hidden_size,
        source=SourceName.transformers,
        dtype=Dtype.float32,
        store=store,
        after=AfterMistake.ignored,
        held_out=HELD_OUT,
        sequences="random",
    )
    write_index(folder, Index(settings=settings, left_out={}, shards=shards))
    for number, shard in enumerate(shards):
        if not (folder / shard.file).exists():
            write_shard(folder, shard, _columns(shard.tokens, hidden_size, store, np.random.default_rng([1, number])))


def _answer(number: int, place: int) -> StoredAnswer:
    split = Split.held_out if number % 5 == 0 else Split.train
    start = place * ANSWER_TOKENS
    return StoredAnswer(id=str(number), question=str(number), split=split, start=start, stop=start + ANSWER_TOKENS)


def _columns(count: int, hidden_size: int, store: Store, rng: np.random.Generator) -> Columns:
    order = np.arange(1, hidden_size + 1, dtype=np.float32)
    whitened = rng.standard_normal((count, hidden_size), dtype=np.float32)
    direction = np.random.default_rng(0).choice([-1.0, 1.0], hidden_size).astype(np.float32) / np.sqrt(order)
    log_odds = MEAN + SPREAD * whitened @ (direction / np.linalg.norm(direction))
    # A cosine transform mixes all coordinates, and is far cheaper than a random rotation.
    hidden = dct(whitened * np.sqrt(hidden_size / order / np.sum(1 / order)), norm="ortho", overwrite_x=True)
    hidden[:, :LARGE_COORDINATES] = 20 * hidden[:, :LARGE_COORDINATES] + 50
    return Columns(
        hidden=torch.from_numpy(hidden).to(STORES[store]),
        evidence=torch.from_numpy(rng.standard_normal((count, len(EVIDENCE)), dtype=np.float32)),
        right=torch.from_numpy(rng.random(count) < 1 / (1 + np.exp(-log_odds))),
        position=torch.arange(ANSWER_TOKENS, dtype=torch.int32).repeat(count // ANSWER_TOKENS),
        token=torch.zeros(count, dtype=torch.int32),
    )


def main(
    work: Annotated[Path, typer.Option(help="Scratch folder; states that are there are taken again.")],
    tokens: Annotated[int, typer.Option(min=1000)] = 30_000,
    hidden_size: Annotated[int, typer.Option(min=LARGE_COORDINATES)] = 16_384,
    store: Annotated[Store, typer.Option()] = Store.float32,
) -> None:
    """Writes random hidden states and fits a head on them, in a process of its own."""
    states, head = work / f"states-{tokens}-{hidden_size}-{store}", work / "head"
    started = time.monotonic()
    make_hidden_states(states, tokens, hidden_size, store)
    written = time.monotonic()
    command: list[str | Path] = [Path(sys.executable).parent / "vllm-judge", "train", "fit", states, "-o", head]
    subprocess.run(command, check=True, stdout=sys.stderr)
    finished, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    provenance = json.loads((head / "config.json").read_text())["provenance"]
    figures = {
        "tokens": tokens,
        "hidden_size": hidden_size,
        "store": store,
        "threads": torch.get_num_threads(),
        "disk_gb": round(sum(path.stat().st_size for path in states.iterdir()) / 1e9, 2),
        "writing_seconds": round(written - started),
        "fit_seconds": round(finished - written),
        "fit_cpu_seconds": round(used.ru_utime + used.ru_stime),
        "fit_peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
        "auc": {line["name"]: round(line["auc"]["value"], 4) for line in provenance["ablation"]},
        "warnings": provenance["warnings"],
    }
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
