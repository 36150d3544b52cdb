"""What heads read, in twelve architectures: the input of the output layer, and the model's own logits' evidence.

One definition, held three times against transformers: as the judge reads it while it serves (V1; V2 in Triton's
interpreter for some), as vLLM gives it to training, and as transformers gives it to training. It would catch: the state
before a norm, a division or a projection that belongs to the output, a row of prompt logprobs or of the drafter's own
output layer, evidence without the model's soft cap or scale, rows lost where vLLM reads a prompt in parts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from architectures import ARCHITECTURES, PROJECTED, in_transformers, make_architecture
from environments import CPU, RUNNERS
from safetensors.torch import load_file

from vllm_judge.head import JudgeHead
from vllm_judge.kernels.reference import evidence
from vllm_judge.tokencourt.choices import Split
from vllm_judge.training.choices import Dtype
from vllm_judge.training.sequences import LabelledSequence
from vllm_judge.training.sources import TransformersSource

HOST = Path(__file__).parent / "output_layer_host.py"
ON_V2 = ["mimo", "gemma2"]
MALFORMED = ["!OwnLogits", "?OwnLogits", "!Narrow", "!FewWords"]
# fp32, sums in another order, states of norm 1 to 100, through two layers whose weights are large.
ATOL = 1e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("architectures")
    for name in ARCHITECTURES:
        make_architecture(name, root / name)
    tiny.make_draft(root / "llama", root / "draft")
    torch.manual_seed(2)
    for hidden_size in (tiny.HIDDEN, PROJECTED):
        head = JudgeHead(hidden_size, use_evidence=True)
        torch.nn.init.normal_(head.weight, std=0.3)
        head.save_pretrained(root / f"head-{hidden_size}")
    return root


def run_host(models: Path, output: Path, runner: str, names: list[str]) -> Path:
    environment = {**os.environ, **CPU, **RUNNERS[runner], "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment["TORCH_COMPILE_DISABLE"] = "1"  # to compile a model's small functions takes longer than to run it
    path = os.pathsep.join([str(HOST.parents[1]), environment.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, str(HOST), str(models), str(output), *names],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-6000:]
    return output


@pytest.fixture(scope="module")
def read_on_v1(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_host(models, tmp_path_factory.mktemp("v1"), "v1", [*ARCHITECTURES, *MALFORMED])


@pytest.fixture(scope="module")
def read_on_v2(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_host(models, tmp_path_factory.mktemp("v2"), "v2", ON_V2)


def expected(name: str, models: Path, texts: list[list[int]], drafts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, H] and [N, 4] of the drafts that end each text."""
    run = in_transformers(name, models / name)
    states, said = [], []
    for text, count in zip(texts, drafts, strict=True):
        hidden, logits = run(text)
        states.append(hidden[-count:])
        said.append(evidence(logits[-count - 1 : -1], torch.tensor(text[-count:])))
    return torch.cat(states), torch.cat(said)


def assert_all_read_the_same(name: str, models: Path, read: Path) -> None:
    texts, drafts = json.loads((read / f"{name}.json").read_text())
    assert len(texts) > 1
    wanted = dict(zip(("hidden", "evidence"), expected(name, models, texts, drafts), strict=True))
    found = load_file(read / f"{name}.safetensors")
    for what, tensor in wanted.items():
        torch.testing.assert_close(found[f"served_{what}"], tensor, atol=ATOL, rtol=ATOL)
        torch.testing.assert_close(found[f"trained_{what}"], tensor, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_judge_reads_what_it_was_trained_on_and_what_transformers_has(models, read_on_v1, name):
    assert_all_read_the_same(name, models, read_on_v1)


@pytest.mark.parametrize("name", ON_V2)
def test_so_it_does_on_model_runner_v2(models, read_on_v2, name):
    assert_all_read_the_same(name, models, read_on_v2)


def test_what_the_forward_pass_returns_is_another_tensor_where_compute_logits_norms(read_on_v1):
    found = load_file(read_on_v1 / "mimo.safetensors")
    assert (found["returned"] - found["served_hidden"]).abs().max() > 1
    same = load_file(read_on_v1 / "llama.safetensors")
    assert torch.equal(same["returned"], same["served_hidden"])


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "minicpm"])  # transformers has none
def test_transformers_gives_training_the_same(models, name):
    texts, drafts = tiny.prompts(2, length=20), [20 - 6] * 2
    sequences = [
        LabelledSequence(str(i), "", Split.train, text, 6, [*range(6, 20)], [True] * 14) for i, text in enumerate(texts)
    ]
    hidden, said, _ = TransformersSource(str(models / name), Dtype.float32).read(sequences)
    for found, wanted in zip((hidden, said), expected(name, models, texts, drafts), strict=True):
        torch.testing.assert_close(found, wanted, atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "!OwnLogits",
            "judge needs a model whose logits are those of one output layer (vLLM's LogitsProcessor), and "
            "OwnLogits's are made in another way: no head can read it.",
        ),
        (
            "?OwnLogits",
            "judge needs a model whose logits are those of one output layer (vLLM's LogitsProcessor), and "
            "OwnLogits's are made in another way: no head can read it.",
        ),
        (
            "!Narrow",
            "judge.model was trained for hidden size 64, but what Narrow's output layer reads is 32 wide: "
            "use a head trained on this target.",
        ),
        (
            "!FewWords",
            "judge needs logits of the whole vocabulary of 131 tokens, and FewWords gives 100: remove judge.",
        ),
    ],
)
def test_a_model_that_no_head_can_read_is_refused_when_the_engine_starts(read_on_v1, name, sentence):
    assert json.loads((read_on_v1 / f"{name}.json").read_text()) == sentence
