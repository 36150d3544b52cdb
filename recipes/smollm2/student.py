"""A draft for SmolLM2-135M-Instruct: a few of its layers, which learn to answer in other words, and sometimes wrongly.

    python recipes/smollm2/student.py TARGET FOLDER [--steps 120]

Embeddings and output layer are the target's and stay as they are. The loss is over the answers' tokens alone. Killed
and started again, it goes on from the last forty steps.
"""

import argparse
import itertools
import math
import random
import time
from pathlib import Path
from typing import Any

import passages
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from vllm_judge.tokencourt.choices import Check
from vllm_judge.tokencourt.court import Verdict
from vllm_judge.tokencourt.final_answer import verdict_on

LAYERS = (0, 1, 18, 29)
BATCH, LEARNING_RATE, WARM_UP = 32, 8e-4, 50
SAVED_EVERY, ASKED = 40, 96
IGNORED = -100


def beginning(target: str) -> LlamaForCausalLM:
    """The student before it learns: the target without most of its layers."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM)
    model.model.layers = torch.nn.ModuleList(model.model.layers[index] for index in LAYERS)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index  # where its keys lie in the cache
    model.config.num_hidden_layers = len(LAYERS)
    model.model.embed_tokens.weight.requires_grad_(False)
    return model


def prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A question's tokens, chat template and all."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)


def batch(step: int, tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [BATCH, T] of a step's questions and answers, and the same with all but the answers' IGNORED."""
    rng = random.Random(step)
    rows, labels = [], []
    for asked in itertools.islice(passages.questions("student", seed=step), BATCH):
        question = prompt(asked.text, tokenizer)
        answer = [*tokenizer(asked.said(rng), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        rows.append(torch.tensor([*question, *answer]))
        labels.append(torch.tensor([*[IGNORED] * len(question), *answer]))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=IGNORED)


def loss_of(model: LlamaForCausalLM, step: int, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Mean negative log-likelihood of the answers' tokens, in nats. What all prompts begin with is computed once."""
    ids, labels = batch(step, tokenizer)
    common = int((ids == ids[0]).all(0).int().cumprod(0).sum())
    cache = model.model(input_ids=ids[:1, :common], use_cache=True).past_key_values
    cache.batch_repeat_interleave(BATCH)
    ids, labels = ids[:, common:], labels[:, common:]
    hidden = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[wanted]).float(), labels[:, 1:][wanted])


@torch.inference_mode()
def held_out(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[float, str]:
    """Share of right answers to questions of the head's part, and one of the answers."""
    tokenizer.padding_side = "left"
    questions = list(itertools.islice(passages.questions("head", seed=1), ASKED))
    prompts = [prompt(asked.text, tokenizer) for asked in questions]
    inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    pairs = zip(texts, questions, strict=True)
    right = [verdict_on(text, asked.reference, Check.names) == Verdict.right for text, asked in pairs]
    return sum(right) / ASKED, texts[0]


def train(target: str, folder: Path, steps: int, bf16: bool) -> None:
    """Trains the student, and saves it with the target's tokenizer and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = beginning(target)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    state, first, began = folder / "training.pt", 0, time.monotonic()
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["steps"]
    folder.mkdir(parents=True, exist_ok=True)
    total = 0.0
    for step in range(first, steps):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model, step, tokenizer)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}: loss {total / 20:.3f}, {time.monotonic() - began:.0f} s", flush=True)
            total = 0.0
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            share, text = held_out(model, tokenizer)
            print(f"step {step + 1}: {share:.0%} of {ASKED} held-out questions right, such as: {text}", flush=True)
            half = state.with_suffix(".half")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": step + 1}, half)
            half.replace(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", help="the checkpoint of SmolLM2-135M-Instruct")
    parser.add_argument("folder", type=Path, help="where the student goes")
    parser.add_argument("--steps", type=int, default=120, help="batches of 32 answers")
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16: faster where the CPU can")
    arguments = parser.parse_args()
    train(arguments.target, arguments.folder, arguments.steps, arguments.bf16)


if __name__ == "__main__":
    main()
