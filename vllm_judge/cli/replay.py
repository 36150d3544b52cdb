"""The command `vllm-judge replay`."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.options import EngineOptions, NumDrafts, json_object
from vllm_judge.cli.screen import console, define
from vllm_judge.errors import JudgeError
from vllm_judge.training.choices import Dtype, SourceName

DEMO_PROBLEMS = 50
EITHER_OR = "give either --demo, or a file of texts, --target and --head."


def replay(
    output: Annotated[
        Path, typer.Option("-o", "--output", file_okay=False, help="Folder for replay.json, .png and .html.")
    ],
    texts: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="JSONL, see docs/replay.md.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="The embedded models on texts about word problems.")] = False,
    target: Annotated[str | None, typer.Option(help="Folder or Hub repository of the target.")] = None,
    head: Annotated[str | None, typer.Option(help="Folder or Hub repository of a judge head.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Acceptance probability; by default the head's own.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Texts; by default all, of the demo 50 problems.")] = None,
    seed: Annotated[int, typer.Option(help="Which of the demo's problems.")] = 0,
    num_speculative_tokens: NumDrafts = 16,
    source: Annotated[
        SourceName | None, typer.Option(help="What runs the target: vllm, and for --demo transformers.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What the target computes in: auto, and for --demo float32.")
    ] = None,
    engine: EngineOptions = "{}",
) -> None:
    """Feeds texts that someone else wrote to the target as drafts: what do strict verification and the judge accept?"""
    if demo and (texts or target or head):
        raise JudgeError(EITHER_OR)
    runs = source or (SourceName.transformers if demo else SourceName.vllm)
    options = json_object(engine, "--engine")
    if options and runs != SourceName.vllm:
        raise JudgeError("--engine is for --source vllm only.")

    from vllm_judge.cli.tables import replay_table
    from vllm_judge.demo import trio
    from vllm_judge.demo.texts import demo_texts
    from vllm_judge.measuring.provenance import about, claim
    from vllm_judge.progress import track
    from vllm_judge.replay.page import page
    from vllm_judge.replay.picture import draw
    from vllm_judge.replay.summary import DEFINITIONS, Replayed, summarise, write_json
    from vllm_judge.replay.texts import read_lines, texts_of
    from vllm_judge.replay.verifier import Verifier
    from vllm_judge.training.sources import open_source

    def load(target: str, head: str, dtype: Dtype) -> Verifier:
        return Verifier.load(target, head, threshold, lambda: open_source(runs, target, dtype, options))

    claim(output / "replay.json")
    if demo:
        verifier = load(str(trio.TARGET), str(trio.HEADS["evidence"]), dtype or Dtype.float32)
        found = demo_texts(n or DEMO_PROBLEMS, seed, verifier.tokenizer)
        name = "answers to the demo's word problems"
    elif texts and target and head:
        lines = read_lines(texts)[:n]
        verifier = load(target, head, dtype or Dtype.auto)
        found = texts_of(texts, lines, verifier.tokenizer)
        name = texts.name
    else:
        raise JudgeError(EITHER_OR)
    verdicts = verifier.verify([(text.prompt_ids, text.token_ids) for text in found])
    replayed = [Replayed(text, next(verdicts)) for text in track("replaying", found)]

    settings = {
        "texts": name,
        "n": len(found),
        "target": target or "the embedded target",
        "head": head or "the embedded judge",
        "threshold": verifier.threshold,
        "source": runs.value,
        "num_speculative_tokens": num_speculative_tokens,
    } | ({"seed": seed} if demo else {})
    origin = about(settings)
    summaries = summarise(replayed, num_speculative_tokens)
    write_json(output / "replay.json", replayed, summaries, origin)
    draw(output / "replay.png", summaries, num_speculative_tokens)
    (output / "replay.html").write_text(page(replayed, summaries, verifier.tokenizer, origin), encoding="utf-8")

    out = console()
    out.print(replay_table(summaries))
    define({name: DEFINITIONS[name] for name in ("share_of_tokens", "accepted_per_cycle")}, out)
    out.print(f"{output}: replay.html, replay.png, replay.json")
