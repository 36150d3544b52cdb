"""`vllm-judge label`: by the final answer, by a model, by people, by a function, or brought along.

What a pair finds out by itself: mine.py, self_judge.py.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from vllm_judge.cli.mine import mine
from vllm_judge.cli.options import (
    Concurrency,
    CourtFile,
    EndpointUrl,
    MaxTokens,
    Output,
    Retries,
    Timeout,
    example,
    report_failures,
)
from vllm_judge.cli.screen import say
from vllm_judge.cli.self_judge import self_judge
from vllm_judge.errors import JudgeError

app = typer.Typer(no_args_is_help=True)
import_app = typer.Typer(no_args_is_help=True)


@app.callback()
def label() -> None:
    """Labels: what is right and wrong in the answers."""


@app.command(epilog=example("label answers court.jsonl -o checked.jsonl"))
def answers(file: CourtFile, output: Output) -> None:
    """Judges answers by their final answer; what is wrong still has to be localised."""
    from vllm_judge.progress import track
    from vllm_judge.tokencourt.court import Answer, Verdict, read_court
    from vllm_judge.tokencourt.label.answers import check_final_answers
    from vllm_judge.tokencourt.outputs import claim, replace

    before = read_court(file)
    claim(output, Answer)
    after = list(check_final_answers(track("answers", before)))
    replace(output, after)
    given = Counter(new.verdict for old, new in zip(before, after, strict=True) if old.verdict != new.verdict)
    unknown = sum(answer.verdict == Verdict.unknown for answer in after)
    say(
        f"{given[Verdict.right]} answers are right and {given[Verdict.wrong]} wrong by their final answer; "
        f"of {unknown} it cannot be told. Written to {output}."
    )


@app.command(epilog=example("label llm checked.jsonl --endpoint http://localhost:8000/v1 --model M -o labelled.jsonl"))
def llm(
    file: CourtFile,
    output: Output,
    endpoint: EndpointUrl,
    model: Annotated[str, typer.Option(help="The annotator.")],
    max_tokens: MaxTokens = 1024,
    concurrency: Concurrency = 16,
    timeout: Timeout = 120.0,
    retries: Retries = 5,
) -> None:
    """Has a model mark the first mistake of answers that need it; run again, it goes on where it stopped."""
    from vllm_judge.tokencourt.court import Answer, read_court
    from vllm_judge.tokencourt.endpoint import Endpoint
    from vllm_judge.tokencourt.label.llm import label_by_model
    from vllm_judge.tokencourt.outputs import claim

    before = read_court(file)
    claim(output, Answer, file)
    annotator = Endpoint(endpoint, model, timeout, retries)
    outcome = label_by_model(before, annotator, output, max_tokens, concurrency)
    say(f"{outcome.labelled} answers labelled by {model} in {output}, {outcome.refused.total()} replies refused.")
    for reason, count in outcome.refused.most_common():
        say(f"  {count}: the reply {reason}")
    report_failures(outcome.failures, output)
    if outcome.refused and not outcome.labelled + outcome.before:
        raise JudgeError(f"{model} gave no reply that could be used: choose another annotator, or raise --max-tokens.")


app.command(epilog=example("label mine questions.jsonl --target T --draft D -o court.jsonl"))(mine)
app.command("self", epilog=example("label self questions.jsonl --target T --draft D -o court.jsonl"))(self_judge)


@app.command(epilog=example("label function court.jsonl my_labels:label -o labelled.jsonl"))
def function(
    file: CourtFile,
    name: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="Takes an Answer and returns it labelled.")],
    output: Output,
) -> None:
    """Labels answers that need it by a Python function of yours: tests, a prover, a parser."""
    from vllm_judge.progress import track
    from vllm_judge.tokencourt.court import Answer, Verdict, read_court
    from vllm_judge.tokencourt.label.function import label_by_function
    from vllm_judge.tokencourt.outputs import claim, replace

    before = read_court(file)
    claim(output, Answer)
    after = list(label_by_function(track("answers", before), name))
    replace(output, after)
    verdicts = Counter(answer.verdict for answer in after)
    say(
        f"{len(after)} answers in {output}: {verdicts[Verdict.right]} right, {verdicts[Verdict.wrong]} wrong, "
        f"{verdicts[Verdict.unknown]} unknown."
    )


@app.command(epilog=example("label annotate checked.jsonl --annotator anna"))
def annotate(
    file: CourtFile,
    annotator: Annotated[list[str], typer.Option(help="Who annotates; may be repeated.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or repository of a tokenizer: cuts answers into its tokens, not words.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show answers that are labelled already, too.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; anyone who reaches it can annotate.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8642,
) -> None:
    """Serves a page on which people mark the first mistake; `label collect` brings their labels into a court.jsonl."""
    from vllm_judge.tokencourt.annotate.store import Notebook
    from vllm_judge.tokencourt.court import read_court
    from vllm_judge.tokencourt.label.llm import needs_label
    from vllm_judge.tokencourt.tokenizer import load_tokenizer

    try:
        import uvicorn

        from vllm_judge.tokencourt.annotate.app import annotation_app
    except ImportError:
        raise JudgeError("fastapi and uvicorn are needed: pip install 'vllm-judge-decoding[court]'.") from None

    shown = [answer for answer in read_court(file) if every or needs_label(answer)]
    if not shown:
        raise JudgeError(f"every answer in {file} is labelled already: --all shows them all the same.")
    cutter = load_tokenizer(tokenizer) if tokenizer else None
    notebooks = {name: Notebook(file, name) for name in dict.fromkeys(annotator)}
    page = annotation_app(file, shown, notebooks, cutter, host)
    for name in notebooks:
        say(f"{name}: http://{host}:{port}/?annotator={name}")
    say(f"{len(shown)} answers; every click is saved. Ctrl-C ends.")
    try:
        uvicorn.run(page, host=host, port=port, log_level="warning")
    finally:
        for notebook in notebooks.values():
            notebook.close()


@app.command(epilog=example("label collect checked.jsonl -o labelled.jsonl"))
def collect(file: CourtFile, output: Output) -> None:
    """Brings the annotators' labels into a court.jsonl."""
    from vllm_judge.tokencourt.annotate.agreement import agreements
    from vllm_judge.tokencourt.annotate.store import collect as collect_opinions
    from vllm_judge.tokencourt.annotate.store import read_opinions
    from vllm_judge.tokencourt.court import Answer, read_court
    from vllm_judge.tokencourt.outputs import claim, replace

    claim(output, Answer)
    opinions = read_opinions(file)
    collected, counts = collect_opinions(read_court(file), opinions)
    replace(output, collected, labels_are_ours=True)
    say(
        f"{counts['labelled']} answers labelled by {', '.join(opinions) or 'nobody'}, "
        f"{counts['disputed']} left as they were because the annotators disagree. Written to {output}."
    )
    for pair in agreements(opinions):
        kappa = "undefined" if pair.kappa is None else f"{pair.kappa:.2f}"
        say(f"  {' and '.join(pair.pair)}: Cohen's kappa {kappa} on {pair.both} answers.")


@import_app.command(epilog=example("label import processbench gsm8k.json math.json -o court.jsonl"))
def processbench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="ProcessBench's JSON files.")], output: Output
) -> None:
    """ProcessBench: the first wrong step of an answer, marked by human experts."""
    from vllm_judge.tokencourt.court import Answer, Verdict
    from vllm_judge.tokencourt.label.importers import import_processbench
    from vllm_judge.tokencourt.outputs import claim, replace

    claim(output, Answer, *files)
    answers = [answer for path in files for answer in import_processbench(path)]
    replace(output, answers)
    wrong = sum(answer.verdict == Verdict.wrong for answer in answers)
    say(f"{len(answers)} answers in {output}: {len(answers) - wrong} right, {wrong} with a wrong step.")


@import_app.command(epilog=example("label import autojudge mined.json --tokenizer T -o court.jsonl"))
def autojudge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that AutoJudge published.")],
    output: Output,
    tokenizer: Annotated[str, typer.Option(help="Folder or repository of the mined pair's tokenizer.")],
) -> None:
    """AutoJudge: the mismatches of a draft and a target that change the final answer."""
    from vllm_judge.tokencourt.court import Answer, Verdict
    from vllm_judge.tokencourt.label.importers import import_autojudge
    from vllm_judge.tokencourt.outputs import claim, replace
    from vllm_judge.tokencourt.tokenizer import load_tokenizer

    claim(output, Answer, *files)
    skipped: Counter[str] = Counter()
    loaded = load_tokenizer(tokenizer)
    answers = [answer for path in files for answer in import_autojudge(path, loaded, skipped)]
    replace(output, answers)
    wrong = sum(answer.verdict == Verdict.wrong for answer in answers)
    say(f"{len(answers)} answers in {output}: {len(answers) - wrong} right, {wrong} with an important token.")
    for reason, count in skipped.items():
        say(f"  {count} important tokens left out: {reason}")


app.add_typer(import_app, name="import", help="Brings labels along that others published.")
