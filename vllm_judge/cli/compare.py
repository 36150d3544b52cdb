"""The command `vllm-judge compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vllm_judge.cli.options import BatchSize, ChatTemplate, DeviceMap, NumDrafts
from vllm_judge.cli.screen import console, define
from vllm_judge.decoding import BATCH_SIZE
from vllm_judge.demo.choices import World
from vllm_judge.errors import JudgeError

DEMO_PROBLEMS = 200
MAX_NEW_TOKENS = 512
SHOWN = ("accuracy", "minus_strict", "tokens_per_forward", "accepted_per_cycle", "judge_only_share", "on_front")
EITHER_OR = "give either --demo, or --target, --draft and --questions."


def compare(
    output: Annotated[
        Path, typer.Option("-o", "--output", file_okay=False, help="Folder for answers, results.json and the picture.")
    ],
    demo: Annotated[bool, typer.Option("--demo", help="The embedded models on fresh word problems.")] = False,
    world: Annotated[World, typer.Option(help="Of the demo: its own, or one where fixed bars on p fail.")] = World.EASY,
    target: Annotated[str | None, typer.Option(help="Folder or Hub repository of the target.")] = None,
    draft: Annotated[str | None, typer.Option(help="Folder or Hub repository of the draft model.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(help="Folder or repository of a judge head; can be repeated.")
    ] = None,
    questions_file: Annotated[
        Path | None,
        typer.Option("--questions", exists=True, dir_okay=False, help="As `court questions` writes; held-out count."),
    ] = None,
    chat_template: ChatTemplate = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Questions; by default all, of the demo's 200.")] = None,
    seed: Annotated[int, typer.Option(help="Which problems of the demo's, and which random numbers.")] = 0,
    rule: Annotated[list[str] | None, typer.Option(help="NAME or NAME:parameter=value; can be repeated.")] = None,
    num_speculative_tokens: NumDrafts = 16,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="By default 512, of the demo's 192.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Mass of the nucleus that is sampled from.")] = 1.0,
    batch_size: BatchSize = BATCH_SIZE,
    device_map: DeviceMap = None,
) -> None:
    """Measures every acceptance rule on the same questions: accuracy against tokens per target forward."""
    if demo == bool(target or draft or head or questions_file):
        raise JudgeError(EITHER_OR)
    if world is not World.EASY and not demo:
        raise JudgeError(f"--world {world} is one of the demo's: give --demo too.")

    import torch
    from transformers.utils.logging import disable_progress_bar

    from vllm_judge.cli.tables import points_table
    from vllm_judge.comparison import compare as comparison
    from vllm_judge.comparison.answers import AnswerFolder
    from vllm_judge.comparison.picture import draw
    from vllm_judge.comparison.points import DEFINITIONS, summarise, write_results
    from vllm_judge.decoding.pair import Pair, Sampling, default_dtype
    from vllm_judge.decoding.questions import held_out_questions
    from vllm_judge.demo import trio
    from vllm_judge.demo.questions import demo_questions
    from vllm_judge.measuring.provenance import about

    disable_progress_bar()
    embedded = trio.TRIOS[world]
    names = {f"judge, {name}": str(path) for name, path in embedded.heads.items()} if demo else _names(head or [])
    longest = max_new_tokens or (trio.MAX_NEW_TOKENS if demo else MAX_NEW_TOKENS)
    how = Sampling(num_speculative_tokens, longest, temperature, top_p)
    if demo:
        pair = Pair.load(str(embedded.target), embedded.strict_config()["model"], torch.float32)
        questions = demo_questions(n or DEMO_PROBLEMS, seed, pair.tokenizer, world)
        asked = f"the demo's word problems, {world} world"
        subject: dict[str, Any] = {"pair": "demo", "world": world}
    elif target and draft and questions_file:
        pair = Pair.load(target, draft, default_dtype(), device_map)
        asked = questions_file.name
        template = chat_template.read() if chat_template else None
        questions = held_out_questions([questions_file], pair.tokenizer, template)[:n]
        subject = {"target": target, "draft": draft, "heads": names}
    else:
        raise JudgeError(EITHER_OR)
    heads = {name: pair.load_head(path) for name, path in names.items()}
    rules = comparison.rules_with(heads)
    chosen = comparison.contenders(rules, rule or [])
    folder = AnswerFolder(output, comparison.identity(pair, heads, how, seed))

    answers = comparison.measure(pair, questions, chosen, how, seed, folder, batch_size)
    points = summarise(chosen, answers, num_speculative_tokens)
    sampled = f"temperature {temperature:g}, top_p {top_p:g}" if temperature else "greedy"
    title = f"{asked}: n = {len(questions)}, {sampled}, {num_speculative_tokens} drafts per cycle"
    settings = {**subject, "questions": asked, "n": len(questions), "seed": seed, **vars(how)}
    sources = {contender.rule.name: contender.rule.source for contender in chosen}
    write_results(output / "results.json", points, sources, about(settings))
    draw(output / "accuracy_against_speed.png", points, title)
    out = console()
    out.print(points_table(chosen, points))
    out.print(title)
    define({name: DEFINITIONS[name] for name in SHOWN}, out)
    out.print(f"{output}: results.json, accuracy_against_speed.png, answers/")


def _names(heads: list[str]) -> dict[str, str]:
    """Short names of heads where these tell them apart."""
    short = {f"judge {Path(head).name}": head for head in heads}
    return short if len(short) == len(heads) else {f"judge {head}": head for head in heads}
