"""Steps run as commands in processes of their own, killed and started again: the quick ones, with an endpoint here.

It would catch: an answer asked for twice after a kill, a step done again or not done again where its inputs have
changed, work that goes on behind a killed `make`, an error of a command that does not come through as its sentence.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vllm_judge.making.estimate import planned
from vllm_judge.making.plan import steps
from vllm_judge.making.recipe_file import read_recipe
from vllm_judge.making.step import Step

QUESTIONS = 30
RECIPE = """
target: T
draft: D
questions: {{source: my.jsonl, reference_field: answer, check: number}}
answers: {{by: writer, endpoint: "{url}", temperatures: [1]}}
labels: {{by: llm, endpoint: "{url}", model: annotator}}
requests_at_a_time: 1
"""
# `make` up to the steps that start engines.
MAKE = """
import sys
from pathlib import Path
from vllm_judge.errors import JudgeError
from vllm_judge.making.plan import steps
from vllm_judge.making.recipe_file import read_recipe
from vllm_judge.making.run import run_all

class Shown:
    def step(self, step, number, of): print("step", number, step.name, flush=True)
    def progress(self, title, total, done): pass
    def words(self, line): print(line, flush=True)

file = Path(sys.argv[1])
work = file.with_name("work")
try:
    planned = steps(read_recipe(file), work, file.parent, file.with_name("head"))
    run_all(planned[: int(sys.argv[2])], work, file.parent, Shown())
except JudgeError as error:
    sys.exit(str(error))
"""


class Models:
    """Writes wrong answers and marks their mistakes; counts what it is asked, and does as `before` says with each."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.before: Callable[[int], int] = lambda number: 200
        models = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                models.asked[asked["model"], asked["messages"][-1]["content"]] += 1
                status = models.before(models.asked.total())
                text = "It is 5. The final answer is 5."
                if asked["model"] == "annotator":
                    text = json.dumps({"verdict": "wrong", "before": "It is", "mistake": "5. The"})
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                body = json.dumps(
                    {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                )
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def models() -> Iterator[Models]:
    made = Models()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def recipe(tmp_path: Path, models: Models) -> Path:
    rows = [{"question": f"What is {number} + 100?", "answer": number + 100} for number in range(QUESTIONS)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(url=models.url))
    return file


def start(recipe: Path, count: int = 4) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, recipe, str(count)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that are run in the background inherit that an interrupt is ignored; a command in a terminal does not.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(recipe: Path, count: int = 4) -> tuple[int, str, str]:
    process = start(recipe, count)
    said, failed = process.communicate(timeout=120)
    return process.returncode, said, failed


def quick_steps(recipe: Path) -> list[Step]:
    return steps(read_recipe(recipe), recipe.with_name("work"), recipe.parent, recipe.with_name("head"))[:4]


def test_killed_in_the_middle_of_a_step_it_loses_nothing_and_repeats_nothing(recipe, models):
    killed = []

    def kill(number: int) -> int:
        for at, process in ((10, first), (QUESTIONS + 12, second)):
            if number == at and process:
                process[0].kill()
                killed.append(number)
                time.sleep(2)  # what was asked is not answered in time: the command behind a killed `make` is gone
        return 200

    first: list[subprocess.Popen[str]] = []
    second: list[subprocess.Popen[str]] = []
    models.before = kill
    for process in (first, second):
        process.append(start(recipe))
        _, failed = process[0].communicate(timeout=120)
        assert process[0].returncode == -signal.SIGKILL, failed
        time.sleep(3)  # for the answer that was on its way
        asked = models.asked.total()
        time.sleep(1)
        assert models.asked.total() == asked, "nothing works on behind a killed `make`"
    code, said, failed = finish(recipe)
    assert code == 0, failed
    assert "step 2" not in said and "step 4" in said
    assert len(killed) == 2
    assert len(models.asked) == 2 * QUESTIONS
    assert models.asked.total() <= 2 * QUESTIONS + len(killed), "only what was on its way is asked again"
    labelled = quick_steps(recipe)[-1].output.read_text().splitlines()
    assert len(labelled) == QUESTIONS and all(json.loads(line)["mistake"] for line in labelled)

    asked = models.asked.total()
    assert finish(recipe)[:2] == (0, ""), "a step that is done is not done again"
    assert models.asked.total() == asked
    assert {one.there for one in planned(quick_steps(recipe), "T")} == {"done"}


def test_other_inputs_have_another_place_and_how_fast_does_not_count(recipe, models):
    assert finish(recipe)[0] == 0
    before = [step.output for step in quick_steps(recipe)]
    text = recipe.read_text()
    recipe.write_text(text.replace("a_time: 1", "a_time: 7"))
    assert [step.output for step in quick_steps(recipe)] == before
    recipe.write_text(text + "max_tokens: 7\n")
    after = [step.output for step in quick_steps(recipe)]
    assert after[0] == before[0] and not {*after[1:]} & {*before[1:]}
    recipe.write_text(text)
    rows = recipe.with_name("my.jsonl")
    rows.write_text(rows.read_text() + '{"question": "What is 7?", "answer": 7}\n')
    assert not {step.output for step in quick_steps(recipe)} & {*before}
    before[1].write_text("")  # what a step made is gone: it is made again
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    assert "step 2" in finish(recipe)[1]


def test_an_endpoint_that_dies_is_a_sentence_and_what_it_gave_is_kept(recipe, models):
    models.before = lambda number: 200 if number <= 10 else 404
    code, _, failed = finish(recipe)
    assert code == 1
    assert failed.startswith(f"answers of writer: {models.url} refuses requests to the model writer: HTTP 404")
    assert "Nothing that was made is lost: the same command goes on from there." in failed
    answers, check = list(planned(quick_steps(recipe), "T"))[1:3]
    assert (answers.does, answers.there) == (f"{QUESTIONS} answers", "10 answers")
    assert answers.time.startswith("about 0:") and check.time == "unknown until first answers are timed"
    models.before = lambda number: 200
    assert finish(recipe)[0] == 0
    assert models.asked.total() <= 2 * QUESTIONS + 2


def test_two_at_once_in_one_folder_are_one_too_many(recipe, models):
    begun, go = threading.Event(), threading.Event()

    def wait(number: int) -> int:
        begun.set()
        go.wait(60)
        return 200

    models.before = wait
    process = start(recipe)
    assert begun.wait(60)
    code, _, failed = finish(recipe)
    go.set()
    assert (code, "another `vllm-judge make` is at work in" in failed) == (1, True)
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_a_full_disk_is_a_sentence_and_what_fits_is_kept(recipe, models):
    limited = [
        sys.executable,
        "-c",
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n{MAKE}",
    ]
    done = subprocess.run(
        [*limited, recipe, "4"], capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.returncode == 1 and "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert finish(recipe)[0] == 0
    assert models.asked.total() <= 2 * QUESTIONS + 2


DIES = """
import os, subprocess

def label(answer):
    left = subprocess.Popen(["sleep", "600"])  # as an engine that nobody stops, with this process's output
    open("left", "w").write(str(left.pid))
    os.kill(os.getpid(), 9)
"""


def test_a_command_that_is_killed_leaves_nothing_behind_and_nothing_hangs(recipe, models):
    recipe.with_name("mine.py").write_text(DIES)
    text = RECIPE.replace(
        '{{by: llm, endpoint: "{url}", model: annotator}}', "{{by: function, function: 'mine:label'}}"
    )
    recipe.write_text(text.format(url=models.url))
    code, _, failed = finish(recipe, 3)
    assert (code, "labels by function: `vllm-judge label function` was killed" in failed) == (1, True), failed
    left = int(recipe.with_name("left").read_text())
    state = Path(f"/proc/{left}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_an_interrupted_make_interrupts_its_command(recipe, models):
    begun = threading.Event()

    def wait(number: int) -> int:
        begun.set()
        time.sleep(0.2)
        return 200

    models.before = wait
    process = start(recipe)
    assert begun.wait(60)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    asked = models.asked.total()
    time.sleep(1)
    assert models.asked.total() == asked
    models.before = lambda number: 200
    assert finish(recipe)[0] == 0
    assert models.asked.total() <= 2 * QUESTIONS + 1
