"""The shipped trios: that their parts belong together, that the targets still solve their problems, and that in the
harder world a judge does what no bar on the target's probability can.

It would catch: a target retrained without new heads, a tokenizer that differs between target and draft, a world whose
wording changed after training, a harder world that is not hard.
"""

import json
from itertools import islice

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from vllm_judge.demo import trio
from vllm_judge.demo.answers import accuracy, answer
from vllm_judge.demo.choices import World
from vllm_judge.demo.court import label, rows
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.world import problems
from vllm_judge.head import JudgeHead, logit
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Message
from vllm_judge.training.choices import Dtype, SourceName
from vllm_judge.training.hidden_states import extract
from vllm_judge.training.sources import TransformersSource
from vllm_judge.training.table import load_table

MEGABYTE = 2**20


@pytest.fixture(scope="module", params=list(World))
def world(request) -> World:
    return request.param


@pytest.fixture(scope="module")
def models(world) -> trio.Trio:
    return trio.TRIOS[world]


def load(folder) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def target(models):
    return load(models.target)


def test_all_share_one_tokenizer(models):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (models.target / name).read_bytes() == (models.folder / "draft" / name).read_bytes()
    assert (models.target / "tokenizer.json").read_bytes() == (trio.TARGET / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", list(trio.HEADS))
def test_heads_fit_the_target(models, target, name):
    head = JudgeHead.from_pretrained(models.heads[name])
    assert head.hidden_size == target.config.hidden_size
    assert (head.evidence is not None) == (name == "evidence")


def test_the_target_solves_fresh_problems(world, models, target):
    fresh = problems(40, 12345, "test", world)
    tokenizer = AutoTokenizer.from_pretrained(models.target)
    assert accuracy(target, tokenizer, fresh, [""] * len(fresh))["accuracy"] >= 0.9


def test_the_record_speaks_of_the_shipped_heads(models):
    record = json.loads((models.folder / "record.json").read_text())
    for folder in models.heads.values():
        assert record[f"decoding_{folder.name}"]["threshold"] == JudgeHead.from_pretrained(folder).threshold


def test_the_trios_are_small():
    size = sum(path.stat().st_size for path in trio.FOLDER.rglob("*") if path.suffix != ".pyc" and path.is_file())
    assert size < 12 * MEGABYTE


def test_in_the_harder_world_the_judge_keeps_unlikely_right_tokens_and_sees_likely_mistakes(tmp_path):
    """On the draft's answers. A bar on p that catches nine in ten mistakes rejects most unlikely right tokens."""
    models = trio.TRIOS[World.HARDER]
    tokenizer = AutoTokenizer.from_pretrained(models.target)
    questions = [row["question"] for row in islice(rows("harder", "test"), 60)]
    drafted = answer(load(models.folder / "draft"), tokenizer, [render_prompt(question) for question in questions])
    with records.Appender[Answer](tmp_path / "court.jsonl") as court:
        for number, (question, ids) in enumerate(zip(questions, drafted, strict=True)):
            asked = [Message(role="user", content=question)]
            court.append(label(Answer(id=str(number), messages=asked, answer=tokenizer.decode(ids), model="draft")))
    extract(
        [tmp_path / "court.jsonl"],
        str(models.target),
        tmp_path / "states",
        lambda: TransformersSource(str(models.target), Dtype.float32),
        source=SourceName.transformers,
        dtype=Dtype.float32,
    )
    table = load_table(tmp_path / "states")
    features = torch.cat([block for _, block in table.blocks()])
    hidden, evidence = features[:, :-4], features[:, -4:]
    right = torch.from_numpy(table.right)
    p, preferred = evidence[:, 0].exp(), evidence[:, 2] == 0
    head = JudgeHead.from_pretrained(models.heads["evidence"])
    accepted = head.score(hidden, evidence) > logit(head.threshold)

    unlikely, likely = right & (p < 0.02), ~right & (p > 0.05)
    assert unlikely.sum() > 300 and likely.sum() > 20
    assert accepted[unlikely].float().mean() > 0.97
    assert accepted[likely].float().mean() < 0.1
    beyond = right & ~preferred
    bar = p[~right & ~preferred].quantile(0.9)  # lets one mistake in ten pass
    assert (p > bar)[beyond].float().mean() < 0.5 < 0.9 < accepted[beyond].float().mean()
