"""Trains the demo's targets and drafts, on a CPU, resumably."""

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from vllm_judge.demo.choices import World
from vllm_judge.demo.documents import DocumentWriter, Habits
from vllm_judge.demo.tokenizer import CONTEXT
from vllm_judge.demo.world import problem_stream

HEAD_DIM = 32
# Names and units must differ from the start: at the usual 0.02 the model learned in 1,000 steps which tokens are units,
# and not to tell them apart.
EMBEDDING_STD = 0.07
ROWS = 32
# Rows are padded to one of these: each is a shape that torch.compile compiles once.
LENGTHS = (80, 96, 112, 136, 168, 208)
FACTS_LENGTH = 90
POOL = 8  # batches drawn together and sorted by length, so that little is padding


@dataclass(frozen=True)
class Plan:
    """A model's shape and how it is trained.

    `schedule` gives the share of the full learning rates at some steps, linear between them; the last one ends the
    training. `facts` is the share of rows that are bare arithmetic, at the first step and from step `facts_steps` on.
    `facts_style_c` are points like `schedule`'s: the share of facts that say "equals" in style C.
    `decision_weights` likewise: the weight of the words that say what happens in a step;
    `turn_weights` likewise: of the words that go on to another step or to the answer. `start` are the layers of the
    easy world's model that training begins with; empty: it begins with random weights.
    """

    hidden_size: int
    layers: int
    intermediate_size: int
    habits: Habits
    schedule: tuple[tuple[int, float], ...]
    facts: tuple[float, float]
    facts_steps: int
    muon_rate: float
    adam_rate: float
    facts_style_c: tuple[tuple[int, float], ...] = ((0, 0.0),)
    decision_weights: tuple[tuple[int, float], ...] = ((0, 1.0),)
    turn_weights: tuple[tuple[int, float], ...] = ((0, 1.0),)
    seed: int = 0
    world: World = World.EASY
    start: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return self.schedule[-1][0]


def build_model(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama with random weights, fp32."""
    torch.manual_seed(plan.seed)
    heads = plan.hidden_size // HEAD_DIM
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=plan.intermediate_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    # With rows of about 100 tokens, steps on a CPU are 1.7 times as fast as with the fused attention.
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    return model


def start_from(model: LlamaForCausalLM, other: LlamaForCausalLM, layers: tuple[int, ...]) -> None:
    """Copies into a model the embeddings, the norm and some layers of another one of the same width."""
    model.model.embed_tokens.load_state_dict(other.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(other.model.norm.state_dict())
    for mine, index in zip(model.model.layers, layers, strict=True):
        mine.load_state_dict(other.model.layers[index].state_dict())


class Trainer:
    """Steps a model through its plan; `save` and `resume` make every step repeatable."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, plan: Plan):
        self.model, self.plan, self.step = model, plan, 0
        self.writer = DocumentWriter(tokenizer, plan.habits)
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
        others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
        self.optimizers = {
            "muon": torch.optim.Muon(matrices, lr=plan.muon_rate, adjust_lr_fn="match_rms_adamw", weight_decay=0.01),
            "adam": torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.01),
        }
        self.rates = {"muon": plan.muon_rate, "adam": plan.adam_rate}
        self.forward = torch.compile(model, dynamic=False)

    def save(self, folder: Path) -> None:
        """Writes the model's and the optimizers' state as safetensors, and the step."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            f"{name}.{index}.{key}": value.clone()
            for name, optimizer in self.optimizers.items()
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        state |= {f"model.{name}": parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        save_file(state, folder / "state.new")
        (folder / "state.new").rename(folder / f"state-{self.step}.safetensors")
        (folder / "progress.json").write_text(json.dumps({"step": self.step}))
        for old in folder.glob("state-*.safetensors"):
            if old.name != f"state-{self.step}.safetensors":
                old.unlink()

    def resume(self, folder: Path) -> None:
        """Continues where `save` left off; does nothing where nothing was saved."""
        if not (folder / "progress.json").exists():
            return
        self.step = json.loads((folder / "progress.json").read_text())["step"]
        state = load_file(folder / f"state-{self.step}.safetensors")
        parameters = dict(self.model.named_parameters())
        optimizers: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in self.optimizers}
        for key, value in state.items():
            owner, rest = key.split(".", 1)
            if owner == "model":
                parameters[rest].data.copy_(value)
            else:
                index, name = rest.split(".")
                optimizers[owner].setdefault(int(index), {})[name] = value
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizer.state_dict() | {"state": optimizers[name]})

    def train(self, every: int, report: Callable[[int, float, float], None]) -> None:
        """Runs the plan's remaining steps; calls `report(step, mean loss, seconds)` every `every` steps."""
        losses, started = [], time.monotonic()
        for ids, weights in self._batches():
            losses.append(self._step(ids, weights))
            self.step += 1
            if self.step % every == 0 or self.step == self.plan.steps:
                self.model.eval()
                report(self.step, sum(losses) / len(losses), time.monotonic() - started)
                self.model.train()
                losses, started = [], time.monotonic()

    def _step(self, ids: torch.Tensor, weights: torch.Tensor) -> float:
        """One update on ids [R, T] int64 and weights [R, T] fp32; gives the weighted mean loss in nats."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.forward(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = weights[:, 1:].flatten()
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        scale = interpolate(self.plan.schedule, self.step)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * scale
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(ids, weights) of the steps from `self.step` on; a step's batch depends on the plan and its number alone."""
        for pool in range(self.step // POOL, -(-self.plan.steps // POOL)):
            batches = self._pool(pool)
            yield from batches[max(0, self.step - pool * POOL) : self.plan.steps - pool * POOL]

    def _pool(self, pool: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = random.Random(f"{self.plan.seed} {pool}")
        stream = problem_stream(rng.getrandbits(32), "train", self.plan.world)
        first, last = self.plan.facts
        progress = min(1.0, pool * POOL / self.plan.facts_steps)
        facts = round(POOL * ROWS * (first + (last - first) * progress))
        style_c = interpolate(self.plan.facts_style_c, pool * POOL)
        rows = [self.writer.facts(FACTS_LENGTH, rng, style_c) for _ in range(facts)]
        least = [interpolate(points, pool * POOL) for points in (self.plan.decision_weights, self.plan.turn_weights)]
        rows += [self.writer.solved(next(stream), rng, *least) for _ in range(POOL * ROWS - facts)]
        rows.sort(key=lambda row: len(row[0]))
        batches = [_stack(rows[start : start + ROWS]) for start in range(0, len(rows), ROWS)]
        rng.shuffle(batches)
        return batches


def interpolate(points: tuple[tuple[int, float], ...], step: int) -> float:
    """The value at a step, linear between points (step, value)."""
    steps, values = zip(*points, strict=True)
    return float(np.interp(step, steps, values))


def _stack(rows: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, padded on the right with tokens of no weight: ids [R, T] int64, weights [R, T] fp32."""
    longest = max(len(ids) for ids, _ in rows)
    length = next(length for length in LENGTHS if length >= longest)
    ids, weights = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for row, (tokens, weight) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, : len(weight)] = torch.tensor(weight)
    return ids, weights
