"""lm-eval's own machinery on an engine that only pretends: pairing, groups, counters and refusals.

It would catch: answers of one run scored with another's, a group that loses documents, counters of a warm-up that leak
into a run, prefix caches that runs share, an example task that judges answers differently from the demo's checker, and
a strict run that somebody else's requests have spoilt.
"""

import functools
import json
import random
import re
from pathlib import Path

import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

import vllm_judge.demo
from vllm_judge.cli import app
from vllm_judge.demo.world import is_correct, problems, solution_pieces
from vllm_judge.errors import JudgeError
from vllm_judge.quality import engines as quality_engines
from vllm_judge.quality import tasks as quality
from vllm_judge.quality.counters import Counters
from vllm_judge.quality.engines import Engine
from vllm_judge.quality.summary import scores, speeds, write
from vllm_judge.quality.tasks import TaskOptions, arms, measure

TASKS = Path(vllm_judge.demo.__file__).parent / "tasks"
QUESTIONS = [json.loads(line) for line in (TASKS / "word_problems.jsonl").read_text().splitlines()]
COUNTED = Counters(tokens=50, cycles=5, accepted=40, judge_only=0, token_seconds=1, requests=10)


class PretendedEngine(Engine):
    """Answers word problems rightly, but for every tenth one when judged; its counters go up with each call."""

    name = "pretended"

    def __init__(self, strict_judge_only: int = 0):
        super().__init__()
        self.total = Counters(1000, 1000, 1000, 1000, 1000, 1000)
        self.strict_judge_only = strict_judge_only
        self.salts: list[set[str]] = []

    def answer(self, asked: list[Instance]) -> list[str]:
        answers = {question["question"]: question["answer"] for question in QUESTIONS}
        judged = asked[0].args[1]["dial"]["judge"] == "true"
        self.salts.append({request.args[1]["salt"] for request in asked})
        self.total = self.total - (Counters(0, 0, 0, 0, 0, 0) - COUNTED)
        judge_only = 20 if judged else self.strict_judge_only
        self.total = self.total - Counters(0, 0, 0, -judge_only, 0, 0)
        numbers = [answers[request.args[0]] + (judged and request.doc_id % 10 == 0) for request in asked]
        return [f"5 and 6 are 11. The answer is {number} pens." for number in numbers]

    def counters(self) -> Counters:
        return self.total

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return chat_history[-1]["content"]

    def arguments(self, dial: dict[str, object], salt: str) -> dict[str, object]:
        return {"dial": dial, "salt": salt}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Neither for counters nor for lm-eval's own tasks, whose thousands of files take seconds to read."""
    monkeypatch.setattr(quality_engines, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(quality, "TaskManager", functools.partial(TaskManager, include_defaults=False))


def test_a_local_task_is_scored_in_pairs_and_counted_run_by_run():
    engine = PretendedEngine()
    found = measure(engine, TaskOptions(["word_problems"], TASKS, limit=50, chat=True), arms([]))
    strict, judge = scores(found)
    assert (strict.task, strict.metric, strict.arm) == ("word_problems", "exact_match, final answer", "strict")
    assert (strict.n, strict.score.value, strict.mcnemar_p) == (50, 1.0, 1.0)
    assert (judge.n, judge.score.value) == (50, 0.9)
    assert judge.minus_strict.value == pytest.approx(-0.1)
    assert judge.minus_strict.low < -0.1 < judge.minus_strict.high <= 0.0
    assert judge.mcnemar_p == pytest.approx(2 * 0.5**5), "5 answers were lost and none was won"

    speed = speeds(found)["judge"]
    assert (speed.tokens, speed.ms_per_token, speed.accepted_per_cycle, speed.judge_only_share) == (50, 100, 8, 0.5)
    assert speeds(found)["strict"].judge_only_share == 0
    assert all(len(salts) == 1 for salts in engine.salts)
    assert len(set().union(*engine.salts)) == 4, "two warm-ups and two runs, each with a prefix cache of its own"


def test_an_evaluation_is_written_and_reported(tmp_path):
    found = measure(PretendedEngine(), TaskOptions(["word_problems"], TASKS, limit=20), arms([]))
    settings = {"tasks": "word_problems", "engine": "pretended"}
    write(tmp_path, found, {"settings": settings, "machine": {"commit": "0123abc"}, "command": "evaluate it"})
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == ["strict"] * 20 + ["judge"] * 20
    assert sum(line["exact_match"] for line in lines) == 38

    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    for expected in ("Quality on word_problems", "-0.100", "0.900", "evaluate it", "0123abc", "50.0"):
        assert expected in page


def test_a_group_takes_its_tasks_documents_together(tmp_path):
    task = (TASKS / "word_problems.yaml").read_text()
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(task.replace("task: word_problems", f"task: {name}"))
    (tmp_path / "both.yaml").write_text("group: both\ntask:\n  - one\n  - two\n")
    (tmp_path / "word_problems.jsonl").write_text((TASKS / "word_problems.jsonl").read_text())
    found = scores(measure(PretendedEngine(), TaskOptions(["both"], tmp_path, limit=20), arms([])))
    assert {one.task: one.n for one in found} == {"both": 40, "one": 20, "two": 20}
    assert all(one.score.value == (1.0 if one.arm == "strict" else 0.9) for one in found)


def test_a_strict_run_that_was_judged_is_refused():
    with pytest.raises(JudgeError, match="counted 3 judge-only tokens"):
        measure(PretendedEngine(strict_judge_only=3), TaskOptions(["word_problems"], TASKS, limit=2), arms([]))


@pytest.mark.parametrize(("name", "message"), [("guess", "scores given answers"), ("nothing", "knows no task nothing")])
def test_a_task_without_generated_text_is_refused_before_anything_runs(tmp_path, name, message):
    (tmp_path / "guess.yaml").write_text(
        "task: guess\ndataset_path: json\ndataset_kwargs: {data_files: {test: guess.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: [a, b]\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}]\n"
    )
    (tmp_path / "guess.jsonl").write_text('{"question": "a?"}\n')
    engine = PretendedEngine()
    with pytest.raises(JudgeError, match=message):
        measure(engine, TaskOptions([name], tmp_path), arms([]))
    assert engine.salts == []


def test_the_example_task_asks_the_demos_problems_and_judges_as_its_checker_does():
    asked = problems(len(QUESTIONS), 0, "test")
    assert [(one["question"], one["answer"]) for one in QUESTIONS] == [(one.question, one.answer) for one in asked]
    task = yaml.safe_load((TASKS / "word_problems.yaml").read_text())
    pattern = task["filter_list"][0]["filter"][0]["regex_pattern"]
    rng = random.Random(0)
    for problem in asked:
        pieces = solution_pieces(problem, 0.5, rng)
        pieces[rng.randrange(len(pieces))] += f" {rng.randrange(100)}" * rng.randrange(2)
        text = "".join(pieces[: rng.choice((None, None, -1, -2, -3))])
        found = re.findall(pattern, text)
        assert (found == [str(problem.answer)]) == is_correct(problem, text), text


def test_counters_of_several_engines_are_added_and_a_judge_is_required():
    lines = [f'vllm:spec_decode_num_judge_only_tokens_total{{engine="{engine}"}} {3 + engine}' for engine in range(2)]
    text = "# TYPE vllm:spec_decode_num_judge_only_tokens counter\n" + "\n".join(lines) + "\n"
    assert Counters.parse(text).judge_only == 7
    with pytest.raises(JudgeError, match="counts no judge-only tokens"):
        Counters.parse("# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total 5\n")


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["evaluate", "gsm8k", "--url", "http://127.0.0.1:9", "-o", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith("vllm-judge: no vLLM server answers at http://127.0.0.1:9/v1/models: ")
    assert done.output.count("\n") == 1


def test_with_both_scopes_each_dial_is_asked_in_both():
    assert arms([0.9], both_scopes=True) == {
        "strict": {"judge": "false"},
        "judge, threshold 0.9": {"judge_threshold": 0.9, "judge_mode": "judge", "judge_scope": "everywhere"},
        "judge, threshold 0.9, thinking only": {
            "judge_threshold": 0.9,
            "judge_mode": "judge",
            "judge_scope": "thinking",
        },
    }


def test_an_engine_that_has_stopped_judging_is_not_measured():
    counts = 'vllm:spec_decode_num_judge_only_tokens_total 3\nvllm:judge_stopped{{engine="1"}} {}\n'
    assert Counters.parse(counts.format(0.0)).judge_only == 3
    with pytest.raises(JudgeError, match=r"has stopped judging.*Restart it\."):
        Counters.parse(counts.format(1.0))
