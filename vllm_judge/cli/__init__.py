"""The `vllm-judge` command: a file per command or group of commands, and on top of them nothing.

Commands are made of what the rooms below offer; only here is anything printed, and an error a sentence and an exit code
(screen.py). Nothing heavy is imported before a command needs it, so that help comes at once: the files of this folder
import the rooms inside their functions.
"""

from typing import Annotated

import typer

from vllm_judge.cli import court, head, label, train
from vllm_judge.cli.calibrate import calibrate
from vllm_judge.cli.chat import chat
from vllm_judge.cli.compare import compare
from vllm_judge.cli.demo import demo
from vllm_judge.cli.evaluate import evaluate
from vllm_judge.cli.make import make
from vllm_judge.cli.options import example
from vllm_judge.cli.project import project
from vllm_judge.cli.push import push
from vllm_judge.cli.replay import replay
from vllm_judge.cli.report import report
from vllm_judge.cli.screen import Commands
from vllm_judge.cli.shadow import shadow
from vllm_judge.cli.tune import tune
from vllm_judge.cli.validate import validate
from vllm_judge.engine.logs import keep_quiet

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
PAIR = "--target T --draft D"


@app.callback()
def commands(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show vLLM's log, at any place of a command.")] = False,
) -> None:
    """Judge Decoding for vLLM."""
    if not verbose:
        keep_quiet()


app.command(epilog=example("demo -n 1000 --json demo.json"))(demo)
app.command(epilog=example("make recipe.yaml", f"make {PAIR} --questions gsm8k --max-accuracy-drop 1 -o my-judge"))(
    make
)
app.add_typer(court.app, name="court")
app.add_typer(label.app, name="label")
app.add_typer(train.app, name="train")
app.command(epilog=example(f"calibrate questions.jsonl {PAIR} --head my-judge -o calibration"))(calibrate)
app.command(
    epilog=example("tune my-judge-8 my-judge-16 --target T --questions questions.jsonl -o speeds.jsonl --into my-judge")
)(tune)
app.add_typer(head.app, name="head")
app.command(epilog=example("validate my-judge --target T"))(validate)
app.command(epilog=example("push my-judge me/T-judge --private"))(push)
app.command(
    epilog=example("compare --demo -o rules", f"compare {PAIR} --head my-judge --questions questions.jsonl -o rules")
)(compare)
app.command(epilog=example("evaluate gsm8k --url http://localhost:8000 --limit 200 -o quality"))(evaluate)
app.command(epilog=example("chat --url http://localhost:8000"))(chat)
app.command(epilog=example("shadow --url http://localhost:8000 --seconds 600"))(shadow)
app.command(epilog=example("replay texts.jsonl --target T --head my-judge -o replay"))(replay)
app.command(
    epilog=example("project --target-step 30 --draft-step 5 --results rules/results.json --rule 'judge my-judge'")
)(project)
app.command(epilog=example("report results"))(report)


def main() -> None:
    """The console script."""
    app()
