"""The comparison of rules: what is asked, what is kept on disk, what is made of it.

It would catch: answers that are lost or given twice when a run is killed and started again, answers of other models or
settings taken for this run's, random numbers that depend on the order of the questions, a front that keeps a dominated
point or drops an equal one.
"""

import json
from pathlib import Path

import pytest
import tiny
import torch
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.comparison import compare
from vllm_judge.comparison.answers import Answer, AnswerFolder, Contender
from vllm_judge.comparison.points import pareto_front, ratio, summarise
from vllm_judge.decoding.pair import Pair, Sampling
from vllm_judge.decoding.questions import Question
from vllm_judge.decoding.rules import all_rules
from vllm_judge.errors import HeadError, JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Message
from vllm_judge.tokencourt.questions import Question as CourtQuestion

GREEDY = Sampling(num_speculative_tokens=4, max_new_tokens=10)
SAMPLED = Sampling(num_speculative_tokens=4, max_new_tokens=10, temperature=1.0, top_p=0.95)
WANTED = ["everything", "p-threshold:threshold=0.05", "FLy:window=1,gate=0"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.make_draft(tiny.make_target(folder / "target"), folder / "draft")
    tiny.make_head(folder / "judge", 0.0, use_evidence=True, scale=0.3)
    return folder


@pytest.fixture(scope="module")
def pair(checkpoints) -> Pair:
    return Pair.load(str(checkpoints / "target"), str(checkpoints / "draft"), torch.float32)


@pytest.fixture(scope="module")
def questions(pair) -> list[Question]:
    """Half of the answers are called right."""
    return [Question(f"q{i}", ids, lambda text: len(text) % 2 == 0) for i, ids in enumerate(tiny.prompts(4))]


def measure(
    folder: Path, pair: Pair, questions: list[Question], wanted: list[str], how=GREEDY, **options
) -> list[list[Answer]]:
    answers = AnswerFolder(folder, compare.identity(pair, {}, how, seed=0))
    return compare.measure(pair, questions, compare.contenders(all_rules(), wanted), how, 0, answers, **options)


def test_a_killed_run_goes_on_without_losing_or_repeating_an_answer(tmp_path, pair, questions, monkeypatch):
    whole = measure(tmp_path / "whole", pair, questions, WANTED)
    asked, done = [], []

    class Killed(BaseException):
        pass

    def decode(self, requests, how, batch_size):
        asked.append({tuple(request.prompt_ids): len(request.rules) for request in requests})
        for index, runs in original(self, requests, how, batch_size):
            if len(done) == 3:
                raise Killed
            done.append(tuple(requests[index].prompt_ids))
            yield index, runs
        done.clear()

    original = Pair.decode
    monkeypatch.setattr(Pair, "decode", decode)
    with pytest.raises(Killed):
        measure(tmp_path / "killed", pair, questions, WANTED)
    *_, last = done
    done.clear()
    # The kill came while an answer was written: half a line is left, of a rule whose other files are one answer ahead.
    path = tmp_path / "killed" / "answers" / "everything.jsonl"
    path.write_bytes(path.read_bytes()[:-20])

    assert measure(tmp_path / "killed", pair, questions, WANTED) == whole
    assert len(asked[1]) == 2 and asked[1].pop(last) == 1 and set(asked[1].values()) == {4}
    for path in (tmp_path / "killed" / "answers").glob("*.jsonl"):
        keys = [json.loads(line)["question"] for line in path.read_text().splitlines()]
        assert sorted(keys) == sorted(question.key for question in questions)
    assert measure(tmp_path / "killed", pair, questions, WANTED) == whole
    assert len(asked) == 2


def test_more_rules_and_questions_add_to_what_is_there(tmp_path, pair, questions):
    first = measure(tmp_path, pair, questions[:2], WANTED[:1])
    more = measure(tmp_path, pair, questions, WANTED)
    assert [answers[:2] for answers in more[:2]] == first
    assert more == measure(tmp_path / "at once", pair, questions, WANTED)


def test_a_folder_of_other_answers_is_refused(tmp_path, pair, questions):
    measure(tmp_path, pair, questions[:1], WANTED)
    with pytest.raises(JudgeError, match="another temperature and top_p: choose another folder"):
        measure(tmp_path, pair, questions[:1], WANTED, SAMPLED)
    other = Pair(pair.target, tiny_draft_with_other_norms(pair), pair.tokenizer)
    with pytest.raises(JudgeError, match="another draft"):
        measure(tmp_path, other, questions[:1], WANTED)


def tiny_draft_with_other_norms(pair: Pair) -> torch.nn.Module:
    draft = type(pair.draft)(pair.draft.config)
    draft.load_state_dict(pair.draft.state_dict())
    with torch.no_grad():
        draft.model.norm.weight[0] += 1e-3
    return draft


def test_a_sampled_answer_does_not_depend_on_what_else_is_asked(tmp_path, pair, questions):
    forward = measure(tmp_path / "forward", pair, questions, WANTED, SAMPLED)
    backward = measure(tmp_path / "backward", pair, questions[::-1], WANTED, SAMPLED)
    assert forward == [answers[::-1] for answers in backward]
    assert forward == measure(tmp_path / "one by one", pair, questions, WANTED, SAMPLED, batch_size=1)
    assert forward != measure(tmp_path / "greedy", pair, questions, WANTED)


def test_strict_verification_gives_the_targets_own_text(tmp_path, pair, questions):
    [strict] = measure(tmp_path, pair, questions, ["strict"])
    for question, answer in zip(questions, strict, strict=True):
        prompt = torch.tensor([question.prompt_ids])
        tokens = pair.target.generate(prompt, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
        assert answer.text == pair.tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)
        assert answer.right == (len(answer.text) % 2 == 0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["judges"], "there is no rule 'judges': choose from .*strict"),
        (["KL:limit=1"], "'KL' is set by threshold, found 'limit=1'"),
        (["KL:threshold"], "'KL' is set by threshold"),
        (["FLy:window=2"], "'FLy' is set by window, gate"),
        (["strict:threshold=1"], "'strict' is set by nothing"),
    ],
)
def test_a_rule_or_setting_that_does_not_exist_is_refused(wanted, message):
    with pytest.raises(JudgeError, match=message):
        compare.contenders(all_rules(), wanted)


def test_the_baseline_comes_first_and_nothing_comes_twice():
    chosen = compare.contenders(all_rules(), ["KL:threshold=0.5", "KL", "strict"])
    names = [(one.rule.name, one.setting_name) for one in chosen]
    assert names[:2] == [("strict", ""), ("KL", "threshold=0.5")]
    assert len(set(names)) == len(names) == 1 + len(all_rules()["KL"].grid)
    files = [one.file_name for one in compare.contenders(all_rules(), [])]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 1)], [True]),
        ([(1, 3), (2, 2), (3, 1)], [True, True, True]),
        ([(1, 3), (1, 2), (0.9, 3)], [True, False, False]),  # as good in one coordinate, worse in the other
        ([(2, 2), (2, 2), (1, 1)], [True, True, False]),  # equal points dominate each other not
        ([(0, 0), (5, 5), (5, 4), (6, 1)], [False, True, False, True]),
    ],
)
def test_the_pareto_front_is_what_nothing_dominates(points, front):
    assert pareto_front(points) == front


def test_a_ratio_of_sums_has_an_interval_over_prompts():
    assert vars(ratio([2, 4, 6], [1, 2, 3])) == {"value": 2.0, "low": 2.0, "high": 2.0}
    estimate = ratio([10] * 50 + [30] * 50, [10] * 100)
    # The mean of 100 draws from {1, 3}: standard error 0.1.
    assert estimate.value == 2.0
    assert (estimate.low, estimate.high) == pytest.approx((2 - 0.196, 2 + 0.196), abs=0.03)


def test_a_point_is_what_its_answers_add_up_to():
    chosen = [Contender(all_rules()[name], {}) for name in ("strict", "everything")]

    def answer(question: str, right: bool, tokens: int, cycles: list[int], judge_only: int) -> Answer:
        return Answer(question=question, right=right, tokens=tokens, cycles=cycles, judge_only=judge_only, text="")

    strict = [answer("a", True, 10, [1, 2, 3], 0), answer("b", False, 6, [0, 2], 0)]
    everything = [answer("a", True, 11, [4, 4], 3), answer("b", True, 1, [], 0)]
    first, second = summarise(chosen, [strict, everything], num_speculative_tokens=4)
    assert (first.accuracy.value, second.accuracy.value, second.minus_strict.value) == (0.5, 1.0, 0.5)
    assert first.tokens_per_forward.value == pytest.approx(16 / (4 + 3))
    assert second.tokens_per_forward.value == pytest.approx(12 / (3 + 1))
    assert (first.accepted_counts, second.accepted_counts) == ([1, 1, 2, 1, 0], [0, 0, 0, 0, 2])
    assert (first.accepted_per_cycle, second.judge_only_share) == pytest.approx((8 / 5, 3 / 8))
    assert (first.on_front, second.on_front) == (False, True)


def test_a_head_or_draft_of_another_model_is_refused(tmp_path, checkpoints, pair):
    JudgeHead(8).save_pretrained(tmp_path / "head")
    with pytest.raises(HeadError, match="reads 8 numbers, the target has 64"):
        pair.load_head(str(tmp_path / "head"))
    tokenizer = type(pair.tokenizer).from_pretrained(checkpoints / "draft")
    tokenizer.add_tokens(["w999"])
    tokenizer.save_pretrained(tmp_path / "draft")
    with pytest.raises(JudgeError, match="different vocabularies"):
        Pair.load(str(checkpoints / "target"), str(tmp_path / "draft"), torch.float32)


def test_a_question_that_is_asked_twice_is_answered_once(tmp_path, pair, questions):
    [answers] = measure(tmp_path, pair, [questions[0], *questions], ["strict"])
    assert answers[0] == answers[1]
    assert len((tmp_path / "answers" / "strict.jsonl").read_text().splitlines()) == len(questions)


def test_a_device_map_without_accelerate_is_refused(checkpoints, monkeypatch):
    monkeypatch.setattr("vllm_judge.decoding.pair.find_spec", lambda name: None)
    with pytest.raises(JudgeError, match="the device map 'auto' needs the package accelerate"):
        Pair.load(str(checkpoints / "target"), str(checkpoints / "draft"), torch.float32, "auto")


def test_the_command_writes_table_results_and_picture(tmp_path, checkpoints):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    asked = [Message(role="user", content=" ".join(f"w{i}" for i in ids)) for ids in tiny.prompts(3)]
    parts = [Split.held_out, Split.train, Split.held_out]
    records.write(
        tmp_path / "questions.jsonl",
        [
            CourtQuestion(id=one.content, messages=[one], split=part, reference="5", check=Check.number)
            for one, part in zip(asked, parts, strict=True)
        ],
    )
    arguments = [
        *("--target", checkpoints / "target"),
        *("--draft", checkpoints / "draft"),
        *("--questions", tmp_path / "questions.jsonl"),
    ]
    arguments += [*("--head", checkpoints / "judge"), *("-o", tmp_path / "out"), *("--max-new-tokens", 8)]
    arguments += ["--rule", "judge judge:threshold=0.5", "--rule", "everything", "--num-speculative-tokens", 3]
    arguments += ["--chat-template", template]
    shown = CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False).output
    assert "judge judge" in shown and "threshold=0.5" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(point["rule"], point["n"]) for point in results["points"]] == [
        ("strict", 2),
        ("judge judge", 2),
        ("everything", 2),
    ]
    assert {"definitions", "settings", "machine", "command", "rules"} < set(results)
    assert set(results["points"][0]) - {"rule", "setting", "n"} == set(results["definitions"])
    assert (tmp_path / "out" / "accuracy_against_speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_needs_no_other_option(tmp_path):
    chosen = ["--rule", "judge, evidence:threshold=0.9", "--rule", "judge, paper:threshold=0.9"]
    arguments = ["compare", "--demo", "-n", "1", "-o", str(tmp_path), *chosen]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    strict, *judges = json.loads((tmp_path / "results.json").read_text())["points"]
    assert [point["rule"] for point in judges] == ["judge, evidence", "judge, paper"]
    assert all(point["accepted_per_cycle"] > strict["accepted_per_cycle"] for point in judges)


def test_half_a_pair_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["compare", "-o", str(tmp_path), "--target", "x"])
    assert result.exit_code == 1
    assert "give either --demo, or --target, --draft and --questions." in result.output
