"""Training of the demo's models: a run that was stopped and continued is the run that was never stopped."""

import random

import pytest
import torch

from vllm_judge.demo.documents import Habits
from vllm_judge.demo.pretrain import POOL, Plan, Trainer, build_model, start_from
from vllm_judge.demo.tokenizer import train_tokenizer
from vllm_judge.demo.world import problems, solution

STEPS = POOL + 3  # stops inside the second pool of batches


@pytest.fixture(autouse=True)
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    return train_tokenizer(problem.question + solution(problem, 0.5, rng) for problem in problems(300, 0, "train"))


def plan(seed: int, layers: int = 1) -> Plan:
    return Plan(
        hidden_size=32,
        layers=layers,
        intermediate_size=32,
        habits=Habits(styles=((1.0, 0.5),), corrections=0.5),
        schedule=((0, 0.1), (STEPS // 2, 1.0), (STEPS, 0.0)),
        facts=(0.5, 0.1),
        facts_steps=STEPS,
        muon_rate=6e-3,
        adam_rate=2e-3,
        seed=seed,
    )


def trainer(tokenizer, seed: int = 0) -> Trainer:
    return Trainer(build_model(plan(seed), tokenizer), tokenizer, plan(seed))


def test_a_continued_run_is_the_same_run(tokenizer, tmp_path):
    whole = trainer(tokenizer)
    losses = []

    def report(step: int, loss: float, seconds: float) -> None:
        losses.append(loss)
        if step == STEPS - 2:
            whole.save(tmp_path)

    whole.train(1, report)
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]

    continued = trainer(tokenizer, seed=0)
    continued.resume(tmp_path)
    assert continued.step == STEPS - 2
    again = []
    continued.train(1, lambda step, loss, seconds: again.append(loss))
    assert again == losses[-2:]
    for ours, theirs in zip(continued.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_saved_starts_at_the_first_step(tokenizer, tmp_path):
    fresh = trainer(tokenizer)
    fresh.resume(tmp_path / "none")
    assert fresh.step == 0


def test_a_model_can_begin_with_some_layers_of_another(tokenizer):
    """A layer that is left out changes what the others make of a text, unless it does nothing."""
    other, model = build_model(plan(seed=1, layers=3), tokenizer), build_model(plan(seed=2, layers=2), tokenizer)
    for last in (other.model.layers[1].self_attn.o_proj, other.model.layers[1].mlp.down_proj):
        torch.nn.init.zeros_(last.weight)
    start_from(model, other, (0, 2))
    ids = torch.tensor([tokenizer.encode(solution(problems(1, 0, "train")[0], 0.5, random.Random(0)))])
    assert torch.equal(model(ids).logits, other(ids).logits)
