"""Runs the commands that the pages print, read from the pages, on the embedded models.

    python scripts/run_docs.py --work FOLDER [--page tokencourt ...] [--without-engines]

What a page names that no fresh clone has (a model of 8B, a served endpoint, a dataset of the Hub) has a stand-in below:
the embedded pair, a small server in this process, a handful of rows. A command is otherwise run as it is printed, the
commands of a block one after the other in a folder of their own; what is served is served until the block's end. The
first that fails ends the run. With --without-engines, in two minutes, blocks that start vLLM are left out.
"""

import argparse
import itertools
import json
import os
import pickle
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = ("tokencourt", "training", "compare", "evaluate", "replay", "chat")
QUESTIONS = 40
ENGINE = '{"dtype": "float32", "enforce_eager": true, "max_model_len": 512, "block_size": 32}'
REPLAY_ENGINE = '{"enforce_eager": true, "max_model_len": 512, "block_size": 32}'  # --dtype is a command's own
# What is printed, and what stands in for it; in this order, as regular expressions.
STAND_INS = (
    (r"--engine '\{\"(?:tensor|gpu)[^']*'", f"--engine '{ENGINE}'"),
    (r"--draft-engine '\{\"gpu[^']*'", f"--draft-engine '{ENGINE}'"),
    (r"(label (?:mine|self) (?!.*--engine).*)", rf"\1 --engine '{ENGINE}' --draft-engine '{ENGINE}'"),
    (r"(label (?:mine|self) (?!.*--max-tokens).*)", r"\1 --max-tokens 160"),
    (r"(train hidden-states .*)", r"""\1 --dtype float32 --engine '{"enforce_eager": true, "max_model_len": 512}'"""),
    (r"meta-llama/Llama-3.1-8B-Instruct|HuggingFaceTB/SmolLM2-135M-Instruct|\bTARGET\b", "$TARGET"),
    (r"meta-llama/Llama-3.2-1B-Instruct|\bDRAFT\b", "$DRAFT"),
    (r"\bHEAD\b", "$HEAD"),
    (r"vllm-judge demo --path", "vllm-judge demo --path > path && echo $FEW"),
    (r"^vllm serve (.*)", r"serve \1"),
    (r"http://localhost:\d+/v1", "$ENDPOINT"),
    (r"http://localhost:8000", "http://127.0.0.1:$PORT"),
    (r"evaluate gsm8k_cot(?: ifeval)?", "evaluate word_problems --tasks-folder $FEW/tasks"),
    (r"(evaluate .*--model .*)", rf"\1 --engine-options '{ENGINE}'"),
    (r"judge\.json --chat", "$FEW/judge.json --chat"),
    (r"(evaluate --mt-bench .*)", r"\1 --max-tokens 64"),
    (r"questions gsm8k --limit 2000", "questions gsm8k-copy --layout gsm8k --limit 4"),
    (r"/data/gsm8k-copy", "gsm8k-copy"),
    (r"(vllm-judge label annotate)", r"timeout --preserve-status -s INT 20 \1"),
    (r"(court answers .*--endpoint.*)", r"\1 --max-tokens 64"),
    (r"(court answers (?!.*--endpoint).*)", r"\1 --max-tokens 64 --temperature 0"),
    # So few questions can show no more.
    (r"(calibrate .*)", rf"\1 --max-new-tokens 160 --max-accuracy-drop 60 --engine '{ENGINE}'"),
    (r"(replay texts.*)", rf"\1 --dtype float32 --engine '{REPLAY_ENGINE}'"),
    (r"(compare --demo.*?) -n \d+", r"\1 -n 1"),
    (r"(compare --target .*)", r"\1 -n 1 --max-new-tokens 160"),
    (r"(compare (?!.*--rule).*)", r"\1 --rule strict --rule KL:threshold=1"),
    (r"replay --demo", "replay --demo -n 2"),
    (r"--compare-naive 20", "--compare-naive 2"),
    (r"Qwen/Qwen2.5-7B-Instruct", "$TARGET"),
    (r"(validate .*)", r"\1 --target $TARGET"),
    (r"recipes/", f"{ROOT}/recipes/"),
)
# What is not run, and why.
SKIPPED = (
    (r"pip install", "the environment is there"),
    (r"\bme/", "a repository of the Hub's: tests/unit/training/test_push.py"),
    (
        r"vllm-judge (?:make(?!.*--(?:plan|show))|tune)|my-judge",
        "all commands of the page together: tests/engine/test_make.py",
    ),
    (r"reproduce_demo_head", "ten minutes: the same commands at full size"),
    (r"calibrate .*ngram", "needs the head of the block before: tests/engine/test_calibrate_in_vllm.py"),
    (r"bench_fit", "minutes and gigabytes: tests/unit/training/test_fit.py"),
)
# A promise of one point takes 300 questions: on a few, this sentence is the right end.
SENTENCES = (r"vllm-judge: .*--max-accuracy-drop", r"vllm-judge: .*promise")
STARTS_ENGINE = re.compile(
    r"court answers(?!.*--endpoint)|label (?:mine|self)|hidden-states|calibrate|evaluate |replay texts|vllm serve"
)
SHELL = """set -euo pipefail
serve() {
  vllm serve "$@" --port $PORT --enforce-eager > server.log 2>&1 &
  trap "kill $!; wait" EXIT
  until python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$PORT/health')" 2> health.log; do
    kill -0 $! || { tail server.log >&2; exit 1; }
    sleep 1
  done
}"""
SERVED = "serve $TARGET --speculative-config $FEW/judge.json --dtype float32 --max-model-len 512"


TURNS = itertools.count()


@dataclass(frozen=True)
class Block:
    """Commands that a page prints together."""

    page: str
    commands: tuple[str, ...]


def blocks(page: str) -> Iterator[Block]:
    """The indented blocks of a page that hold commands, comments left out and lines that go on joined."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for found in re.finditer(r"(?m)(?:^ {4}\S.*\n(?:^ {4,}.*\n|\n(?= {4}))*)", text):
        lines = found.group().replace("\\\n", " ").splitlines()
        commands = tuple(re.sub(r"\s+#.*$", "", " ".join(line.split())) for line in lines if line.strip())
        commands = tuple(one for one in commands if not one.startswith("#"))
        if any(re.match(r"vllm-judge |scripts/|python scripts/", one) for one in commands):
            yield Block(page, commands)


def to_run(command: str) -> str | None:
    """A printed command with its stand-ins; None where it is not run."""
    if any(re.search(pattern, command) for pattern, _ in SKIPPED):
        return None
    for pattern, stand_in in STAND_INS:
        command = re.sub(pattern, stand_in, command, count=1)
    return command


class Endpoint(BaseHTTPRequestHandler):
    """Answers every chat: the annotator quotes the last word of the answer, the judge model prefers A, everybody else
    answers 7."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = "The final answer is 7."
        if asked["model"] == "annotator":
            before, _, last = asked["messages"][-1]["content"].partition("# Answer\n\n")[2].strip().rpartition(" ")
            text = json.dumps({"verdict": "wrong", "before": before[-20:], "mistake": last})
            if next(TURNS) % 2:
                text = "I am not sure."  # left for people
        elif asked["model"] == "JUDGE":
            text = json.dumps({"reason": "The first.", "better": "A"})
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def write_inputs(folder: Path) -> None:
    """The files that pages take for given: questions, labelled answers, rows in the layouts that they name."""
    from datasets import Dataset

    from vllm_judge.demo.world import problem_stream, solution
    from vllm_judge.tokencourt import records
    from vllm_judge.tokencourt.choices import Check
    from vllm_judge.tokencourt.court import Answer, Message, Span, Verdict
    from vllm_judge.tokencourt.questions import Question, split_of

    rng = random.Random(0)
    stream = problem_stream(5, "train")
    problems = [next(stream) for _ in range(QUESTIONS)]
    questions, answers = [], []
    for number, problem in enumerate(problems):
        chat = [Message(role="user", content=problem.question)]
        reference = str(problem.answer)
        questions.append(
            Question(id=f"q{number}", messages=chat, split=split_of(chat), reference=reference, check=Check.number)
        )
        right = solution(problem, 0.5, rng)
        place = right.rindex(reference)
        wrong = right[:place] + str(problem.answer + 1) + right[place + len(reference) :]
        common: dict[str, Any] = {"messages": chat, "model": "somebody", "labelled_by": "somebody"}
        mistake = Span(start=place, end=place + len(str(problem.answer + 1)))
        answers.append(Answer(id=f"r{number}", answer=right, verdict=Verdict.right, **common))
        answers.append(Answer(id=f"w{number}", answer=wrong, verdict=Verdict.wrong, mistake=mistake, **common))
    records.write(folder / "questions.jsonl", questions)
    records.write(folder / "court.jsonl", answers)
    rows = [{"text": one.question, "question": one.question, "solution": str(one.answer)} for one in problems]
    asked = [{"question": row["question"], "answer": f"#### {row['solution']}"} for row in rows]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "questions.json").write_text(json.dumps([{**row, "answer": row["solution"]} for row in rows]))
    (folder / "gsm8k-copy").mkdir()
    Dataset.from_list(asked).to_parquet(folder / "gsm8k-copy" / "train.parquet")
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"prompt": one.messages[0].content, "text": one.answer}) + "\n" for one in answers[:3])
    )
    turns = [
        {"question_id": n, "category": "math", "turns": [row["question"], "Why?"]} for n, row in enumerate(rows[:2])
    ]
    (folder / "question.jsonl").write_text("".join(json.dumps(question) + "\n" for question in turns))
    write_foreign_head(folder / "qwen2.5-7b-self-logistic-num20.pkl")
    write_own_head(folder / "Llama-3.1-8B-Instruct-judge")
    for name in ("gsm8k", "math"):
        steps = [
            {"id": f"{name}-{n}", "generator": "m", "problem": a.messages[0].content, "steps": a.answer.split(". ")}
            | {"label": -1 if a.verdict == Verdict.right else 0, "final_answer_correct": a.verdict == Verdict.right}
            for n, a in enumerate(answers)
        ]
        (folder / f"processbench_{name}.json").write_text(json.dumps(steps))


def write_foreign_head(path: Path) -> None:
    """A head of SelfJudge's form, of the embedded target's width."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from vllm_judge.demo import trio
    from vllm_judge.head import JudgeHead

    width = JudgeHead.from_pretrained(trio.FOLDER / "judge").hidden_size
    states = np.random.default_rng(0).normal(size=(100, width)).astype(np.float32)
    model = LogisticRegression().fit(StandardScaler().fit_transform(states), states[:, 0] > 0)
    path.write_bytes(pickle.dumps({"model": model, "scaler": StandardScaler().fit(states)}))


def write_own_head(folder: Path) -> None:
    """The embedded head as a folder that serves itself."""
    from vllm_judge.demo import trio
    from vllm_judge.judge_json import write_judge_json

    shutil.copytree(trio.FOLDER / "judge", folder)
    write_judge_json(folder, trio.strict_config(16))


def run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Runs a block, its inputs beside it; ends the program where a command fails."""
    commands = [(printed, to_run(printed)) for printed in block.commands]
    written = set(re.findall(r"-o (\S+)", " ".join(block.commands)))
    folder.mkdir(parents=True)
    for one in (folder.parent.parent / "inputs").iterdir():
        if one.name not in written:
            (folder / one.name).symlink_to(one)
    shell = [SHELL]
    served = any(one.startswith("vllm serve") for one in block.commands)
    if not served and any("--url http://localhost:8000" in one for one in block.commands):
        shell.append(SERVED)
    for printed, command in commands:
        if command is None:
            print(f"{block.page}: not run: {printed}")
        else:
            shell.append(command)
    if len(shell) == 1:
        return
    done = subprocess.run(
        ["bash", "-c", "\n".join(shell)], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    last = done.stderr.strip().splitlines()[-1:] or [""]
    if done.returncode and not any(re.match(sentence, last[0]) for sentence in SENTENCES):
        print("\n".join(shell[1:]), done.stdout, done.stderr, sep="\n")
        raise SystemExit(f"{block.page}: exit code {done.returncode}")
    for line in shell[1:]:
        print(f"{block.page}: ran: {line}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty folder, or none yet")
    parser.add_argument("--page", choices=PAGES, action="append", help="may be repeated; by default all")
    parser.add_argument("--without-engines", action="store_true", help="leave out blocks that start vLLM")
    arguments = parser.parse_args()

    from vllm_judge.demo import trio

    work = arguments.work.resolve()
    (work / "inputs").mkdir(parents=True)
    write_inputs(work / "inputs")
    demo = work / "demo"
    demo.mkdir()
    for one in trio.FOLDER.iterdir():
        if one.name != "tasks":
            (demo / one.name).symlink_to(one)
    shutil.copytree(trio.FOLDER / "tasks", demo / "tasks")
    problems = demo / "tasks" / "word_problems.jsonl"
    problems.write_text("".join(problems.read_text().splitlines(keepends=True)[:4]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TARGET": str(demo / "target"),
        "DRAFT": str(demo / "draft"),
        "FEW": str(demo),
        "HEAD": str(demo / "judge"),
        "PORT": str(port),
        "ENDPOINT": f"http://127.0.0.1:{server.server_port}/v1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for page in arguments.page or PAGES:
        for number, block in enumerate(blocks(page)):
            if arguments.without_engines and any(STARTS_ENGINE.search(one) for one in block.commands):
                print(f"{page}: starts an engine, not run: {'; '.join(block.commands)}")
                continue
            run(block, work / page / str(number), environment)


if __name__ == "__main__":
    main()
