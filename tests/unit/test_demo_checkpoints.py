"""The shipped trio: that its parts belong together, and that the target still solves its problems.

It would catch: a target retrained without new heads, a tokenizer that differs between target and draft, a world whose
wording changed after training.
"""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from vllm_judge.demo import trio
from vllm_judge.demo.answers import accuracy
from vllm_judge.demo.world import problems
from vllm_judge.head import JudgeHead

DRAFT = trio.FOLDER / "draft"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def target():
    return LlamaForCausalLM.from_pretrained(trio.TARGET, dtype=torch.float32).eval()


def test_target_and_draft_share_one_tokenizer():
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (trio.TARGET / name).read_bytes() == (DRAFT / name).read_bytes()


@pytest.mark.parametrize("name", list(trio.HEADS))
def test_heads_fit_the_target(target, name):
    head = JudgeHead.from_pretrained(trio.HEADS[name])
    assert head.hidden_size == target.config.hidden_size
    assert (head.evidence is not None) == (name == "evidence")


def test_the_target_solves_fresh_problems(target):
    fresh = problems(40, 12345, "test")
    tokenizer = AutoTokenizer.from_pretrained(trio.TARGET)
    assert accuracy(target, tokenizer, fresh, [""] * len(fresh))["accuracy"] >= 0.9


def test_the_record_speaks_of_the_shipped_heads():
    record = json.loads((trio.FOLDER / "record.json").read_text())
    for folder in trio.HEADS.values():
        assert record[folder.name]["threshold"] == JudgeHead.from_pretrained(folder).threshold


def test_the_trio_is_small():
    size = sum(path.stat().st_size for path in trio.FOLDER.rglob("*") if path.is_file())
    assert size < 12 * MEGABYTE
