"""Trains the demo's target, draft and judge heads, and records every figure in record.json.

    python scripts/train_demo.py --work /some/scratch/folder
    python scripts/train_demo.py --work /another/folder --world harder

Each takes about an hour on one CPU core; the second begins with the first one's models.
Training that was stopped goes on where it was: a step depends on the plan and its number alone. The plans are those of
the shipped checkpoints; what they leave to chance is the order in which a CPU adds numbers.
"""

import json
import platform
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from vllm_judge.decoding.decoder import speculative_decode
from vllm_judge.demo import trio
from vllm_judge.demo.answers import accuracy
from vllm_judge.demo.choices import World
from vllm_judge.demo.documents import MARKER
from vllm_judge.demo.grammar import Problem
from vllm_judge.demo.plans import PLANS
from vllm_judge.demo.pretrain import Plan, Trainer, build_model, start_from
from vllm_judge.demo.tokenizer import render_prompt, save_tokenizer, train_tokenizer
from vllm_judge.demo.world import is_correct, problems, solution, solution_pieces
from vllm_judge.head import JudgeHead

REPORT_EVERY, CHECK_EVERY = 100, 500  # steps
HEADS = ("judge", "judge-paper")
NUM_SPECULATIVE_TOKENS = 16
MAX_NEW_TOKENS = 192
CHECK_SEED, EVALUATION_SEED = 1, 4
SCRIPTS = Path(__file__).parent

MODEL_CARD = """---
library_name: transformers
---

# The {name} of vllm-judge's demo

A Llama of {layers} layers and hidden size {hidden_size} that solves the {world} arithmetic word problems of
vllm_judge/demo/world.py with worded steps, trained for {steps} steps by scripts/train_demo.py{start}. It knows nothing
else.
The weights are bfloat16; the judge heads were fitted on float32 computation with them.

A prompt is `<|user|>` + question + `<|assistant|>`, which is what the chat template makes of one user message (system
messages are left out). The tokenizer adds no token of its own. Answers end with `<|end|>`.
"""


class Stage(StrEnum):
    """What there is to do, in order."""

    TOKENIZER = "tokenizer"
    TARGET = "target"
    DRAFT = "draft"
    HEADS = "heads"
    EVALUATION = "evaluation"


def make_tokenizer(work: Path, world: World) -> None:
    """Trains the easy world's tokenizer, which both worlds have."""
    if (work / "tokenizer").exists():
        return
    if world is not World.EASY:
        save_tokenizer(AutoTokenizer.from_pretrained(trio.TARGET), work / "tokenizer")
        return
    rng = random.Random(0)
    solved = problems(8000, 0, "train")
    texts = [f"{problem.question} {solution(problem, rng.choice((0, 1)), rng)}{MARKER}" for problem in solved]
    save_tokenizer(train_tokenizer(texts), work / "tokenizer")


def pretrain(name: str, work: Path, output: Path, world: World) -> None:
    """Trains the target or the draft, and writes it in bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    plan, folder = PLANS[world][name], work / name
    model = build_model(plan, tokenizer)
    if plan.start:
        start_from(model, LlamaForCausalLM.from_pretrained(trio.FOLDER / name, dtype=torch.float32), plan.start)
    trainer = Trainer(model, tokenizer, plan)
    trainer.resume(folder)
    fresh = problems(200, CHECK_SEED, "test", world)

    def report(step: int, loss: float, seconds: float) -> None:
        line: dict[str, Any] = {"step": step, "loss": round(loss, 4), "seconds": round(seconds, 1)}
        trainer.save(folder)
        if step % CHECK_EVERY == 0 or step == plan.steps:
            line |= check(trainer.model, tokenizer, fresh, world)
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        typer.echo(f"{time.strftime('%H:%M:%S')} {name} {line}")

    trainer.train(REPORT_EVERY, report)
    trainer.model.bfloat16().save_pretrained(output / name)
    save_tokenizer(tokenizer, output / name)
    (output / name / "README.md").write_text(model_card(name, plan))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    record(
        output,
        name,
        plan=asdict(plan),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        loss=log[-1]["loss"],
        training_seconds=round(sum(line["seconds"] for line in log)),
    )


def check(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Problem], world: World
) -> dict[str, float]:
    """Accuracy from the question on, and after a beginning in the draft's style, as judge decoding has them."""
    rng = random.Random(CHECK_SEED)
    style_b, style_c = draft_style(world)
    worded = ["".join(solution_pieces(problem, style_b, rng, style_c)[:4]) for problem in asked]
    after = accuracy(model, tokenizer, asked, worded)
    return accuracy(model, tokenizer, asked, [""] * len(asked)) | {f"{key}_after_draft": after[key] for key in after}


def draft_style(world: World) -> tuple[float, float]:
    """The draft's chances of styles B and C in a slot."""
    _, style_b, *style_c = PLANS[world]["draft"].habits.styles[0]
    return style_b, sum(style_c)


def make_heads(work: Path, output: Path, world: World) -> None:
    """Has TokenCourt make both heads for the trained pair, and writes judge.json."""
    made = work / "heads"
    subprocess.run([SCRIPTS / "reproduce_demo_head.sh", made, world, output], check=True)
    for name in HEADS:
        shutil.copytree(made / "new" / name, output / name, dirs_exist_ok=True)
    config = {
        "method": "draft_model",
        "model": "draft",
        "num_speculative_tokens": NUM_SPECULATIVE_TOKENS,
        "judge": {"model": HEADS[0]},
    }
    (output / "judge.json").write_text(json.dumps(config, indent=2) + "\n")


def evaluate(output: Path, n: int, n_judged: int, world: World) -> None:
    """Target alone and draft alone on `n` fresh problems, and speculative decoding on the first `n_judged` of them.

    Strict verification gives the target's own text, slowly: a tenth of the problems shows how much it accepts.
    """
    target, draft, tokenizer = load_models(output)
    fresh = problems(n, EVALUATION_SEED, "test", world)
    for name, model in (("target", target), ("draft", draft)):
        measured = check(model, tokenizer, fresh, world)
        record(output, f"{name}_alone", n=n, **measured)
        typer.echo(f"{name} alone {measured}")
    for name in ("strict", *HEADS):
        strict = name == "strict"
        head = None if strict else JudgeHead.from_pretrained(output / name)
        measured = judged_decoding(target, draft, tokenizer, head, fresh[: n_judged // 10 if strict else n_judged])
        record(output, f"decoding_{name}", threshold=head and head.threshold, **measured)
        typer.echo(f"decoding {name} {measured}")


def judged_decoding(target, draft, tokenizer, head: JudgeHead | None, asked: Sequence[Problem]) -> dict[str, float]:
    """Greedy speculative decoding of the problems by the reference decoder."""
    decoded = speculative_decode(
        target,
        draft,
        [tokenizer.encode(render_prompt(problem.question)) for problem in asked],
        num_speculative_tokens=NUM_SPECULATIVE_TOKENS,
        max_new_tokens=MAX_NEW_TOKENS,
        head=head,
        eos_token_ids=(tokenizer.eos_token_id,),
        protected_token_ids=tokenizer.all_special_ids,
    )
    cycles = [accepted for answer in decoded for accepted in answer.cycles]
    forwards = len(cycles) + len(decoded)  # a prompt's own pass yields a token too
    texts = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in decoded]
    return {
        "n": len(asked),
        "accuracy": sum(map(is_correct, asked, texts)) / len(asked),
        "accepted_per_cycle": round(sum(cycles) / len(cycles), 3),
        "tokens_per_target_forward": round(sum(len(answer.tokens) for answer in decoded) / forwards, 3),
        "judge_only_share": round(sum(answer.judge_only for answer in decoded) / max(1, sum(cycles)), 4),
    }


def load_models(output: Path) -> tuple[LlamaForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The target, the draft and their tokenizer as they ship; weights rounded to bfloat16, computing in fp32."""
    names = ("target", "draft")
    target, draft = (LlamaForCausalLM.from_pretrained(output / name, dtype=torch.float32).eval() for name in names)
    return target, draft, AutoTokenizer.from_pretrained(output / "target")


def model_card(name: str, plan: Plan) -> str:
    """A README.md for the target or the draft."""
    start = f" from layers {', '.join(map(str, plan.start))} of the easy world's {name}" if plan.start else ""
    return MODEL_CARD.format(**vars(plan) | {"name": name, "start": start, "steps": plan.steps})


def record(output: Path, section: str, **figures: Any) -> None:
    """Puts figures into record.json."""
    path = output / "record.json"
    sections = json.loads(path.read_text()) if path.exists() else {}
    sections[section] = figures
    sections["versions"] = {name: version(name) for name in ("torch", "transformers", "tokenizers", "scikit-learn")}
    sections["versions"]["python"] = platform.python_version()
    path.write_text(json.dumps(sections, indent=2) + "\n")


def main(
    work: Annotated[Path, typer.Option(help="Scratch folder: training state, hidden states, logs.")],
    world: Annotated[World, typer.Option(help="Which problems.")] = World.EASY,
    output: Annotated[
        Path | None, typer.Option(help="Where checkpoints, judge.json and record.json go; by default into the demo.")
    ] = None,
    stages: Annotated[list[Stage] | None, typer.Option("--stage", help="Only this stage, can be repeated.")] = None,
    problems_alone: Annotated[int, typer.Option(help="Fresh problems that target and draft solve alone.")] = 1000,
    problems_judged: Annotated[int, typer.Option(help="Fresh problems of each run of speculative decoding.")] = 500,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Trains the checkpoints of one of the demo's worlds."""
    output = output or trio.TRIOS[world].folder
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    steps: dict[Stage, Callable[[], None]] = {
        Stage.TOKENIZER: lambda: make_tokenizer(work, world),
        Stage.TARGET: lambda: pretrain("target", work, output, world),
        Stage.DRAFT: lambda: pretrain("draft", work, output, world),
        Stage.HEADS: lambda: make_heads(work, output, world),
        Stage.EVALUATION: lambda: evaluate(output, problems_alone, problems_judged, world),
    }
    for stage in Stage:
        if stages is None or stage in stages:
            started = time.monotonic()
            steps[stage]()
            typer.echo(f"{stage} done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    typer.run(main)
