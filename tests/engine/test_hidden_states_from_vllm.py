"""Hidden states by vLLM, one rank and two, against those by transformers; and a head fitted on them.

It would catch: a state before the final norm, rows lost or mixed up where vLLM cuts prompts into chunks or on the way
from a worker, evidence of a part of the vocabulary, a prompt that two sources make differently.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chat_model import make_chat_model, write_court
from environments import CPU, CPU_TWO_RANKS, KV_CACHE_BYTES
from safetensors.torch import load_file
from server import serving

from vllm_judge.head import JudgeHead
from vllm_judge.training.served import SERVE
from vllm_judge.training.shards import read_index

QUESTIONS = 60
MAX_LENGTH = 64
ATOL = 2e-4  # fp32; another order of additions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_chat_model(folder / "target", tied=True)
    write_court(folder / "court.jsonl", QUESTIONS)
    vllm_judge(*extraction(folder, "transformers"), "--source", "transformers", environment=CPU)
    return folder


def extraction(folder: Path, name: str) -> list[str]:
    command = ["train", "hidden-states", str(folder / "court.jsonl"), "--target", str(folder / "target")]
    return [*command, "-o", str(folder / name), "--dtype", "float32"]


def vllm_judge(*arguments: str, environment: dict[str, str]) -> str:
    command = [str(Path(sys.executable).parent / "vllm-judge"), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("ranks", [1, 2])
def test_vllm_gives_what_transformers_gives_and_a_head_can_be_fitted_on_it(folder, ranks):
    engine = {
        "enforce_eager": True,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "tensor_parallel_size": ranks,
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": 8,
        "max_num_batched_tokens": MAX_LENGTH,  # so that prompts are cut into chunks
    }
    name = f"vllm-{ranks}"
    environment = CPU if ranks == 1 else CPU_TWO_RANKS
    vllm_judge(*extraction(folder, name), "--engine", json.dumps(engine), environment=environment)
    ours, theirs = read_index(folder / name), read_index(folder / "transformers")
    assert ours.shards == theirs.shards and ours.settings.sequences == theirs.settings.sequences
    for shard in ours.shards:
        found, expected = (load_file(folder / one / shard.file) for one in (name, "transformers"))
        torch.testing.assert_close(found.pop("hidden"), expected.pop("hidden"), atol=ATOL, rtol=ATOL)
        torch.testing.assert_close(found.pop("evidence"), expected.pop("evidence"), atol=ATOL, rtol=ATOL)
        assert all(torch.equal(found[column], expected[column]) for column in ("right", "position", "token"))
    said = vllm_judge("train", "fit", str(folder / name), "-o", str(folder / f"head-{ranks}"), environment=CPU)
    assert "position" in said
    assert JudgeHead.from_pretrained(folder / f"head-{ranks}").hidden_size == 64


def test_a_pooling_server_gives_them_too_of_models_whose_output_layer_is_a_matrix(folder):
    with serving(folder, None, folder / "server.log", *SERVE.split()) as client:
        vllm_judge(*extraction(folder, "served"), "--url", str(client.base_url), environment=CPU)
    ours, theirs = read_index(folder / "served"), read_index(folder / "transformers")
    for shard in ours.shards:
        found, expected = (load_file(folder / one / shard.file) for one in ("served", "transformers"))
        torch.testing.assert_close(found["hidden"], expected["hidden"], atol=ATOL, rtol=ATOL)
        torch.testing.assert_close(found["evidence"], expected["evidence"], atol=ATOL, rtol=ATOL)
        assert torch.equal(found["token"], expected["token"])
    assert ours.settings.sequences == theirs.settings.sequences
