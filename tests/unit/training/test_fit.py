"""Fits on folders of hidden states whose labels follow a known rule.

It would catch: a solver that stops early, mixes problems up or reads rows of another block, a scaler that is not folded
in, cross-validation that splits a question, held-out tokens in the fit, a head that learnt position and is not
called out, an interval as narrow as if tokens were independent, an AUC that ties distort.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import HIDDEN, along_direction, by_position, by_question, direction, make_hidden_states
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.head import JudgeHead
from vllm_judge.training import fit_in_memory, fit_streamed, table
from vllm_judge.training.choices import Features
from vllm_judge.training.fit import fit_folder
from vllm_judge.training.measure import QuestionBootstrap, rates_by_threshold
from vllm_judge.training.problems import Problem, score
from vllm_judge.training.selection import choose, most_careful, some_questions, weightings
from vllm_judge.training.shards import Index, Settings
from vllm_judge.training.table import TokenTable, load_table


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directed")
    make_hidden_states(folder, along_direction)
    return folder


@pytest.fixture(scope="module")
def positional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("positional")
    make_hidden_states(folder, by_position)
    return folder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 77 rows, which fit no shard evenly."""
    monkeypatch.setattr(table, "BLOCK_BYTES", 77 * 4 * HIDDEN)


def whitened_weights(tokens: TokenTable, weights: np.ndarray) -> torch.Tensor:
    features = torch.cat([block for _, block in tokens.blocks()])
    return torch.from_numpy(weights).float() * features.std(dim=0)


@pytest.mark.parametrize("solver", [fit_in_memory, fit_streamed])
def test_both_solvers_recover_a_planted_direction(solver, directed, small_blocks):
    tokens = load_table(directed)
    weights = weightings(tokens, balance_positions=False)["labels balanced"]
    [both, hidden] = solver.solve(tokens, [Problem(one, weights, 1.0) for one in (Features.both, Features.hidden)])
    found = whitened_weights(tokens, both.weights)
    assert torch.cosine_similarity(found, direction(), dim=0) > 0.98
    assert not hidden.weights[HIDDEN:].any()
    scores = score(tokens, [both, hidden])
    aucs = [roc_auc_score(tokens.right[tokens.held_out], one[tokens.held_out]) for one in scores.T]
    assert aucs[0] > 0.98 and aucs[0] > aucs[1] > 0.9


def test_the_streamed_solver_solves_many_problems_as_scikit_learn_does_one_by_one(directed, small_blocks):
    tokens = load_table(directed)
    candidates = weightings(tokens, balance_positions=False).values()
    halves = (tokens.question % 2 == 0, tokens.question % 2 == 1)
    problems = [
        Problem(features, np.where(half, weights, np.float32(0)), strength)
        for features in Features
        for weights in candidates
        for half in halves
        for strength in (1e-4, 1e-2, 1.0)
    ]
    expected = score(tokens, fit_in_memory.solve(tokens, problems))
    found = score(tokens, fit_streamed.solve(tokens, problems))
    for number, problem in enumerate(problems):
        np.testing.assert_allclose(found[:, number], expected[:, number], rtol=0.01, atol=0.05, err_msg=str(problem))
        assert np.corrcoef(found[:, number], expected[:, number])[0, 1] > 0.9999


def test_directions_of_very_different_variance_need_few_passes():
    """The k-th largest has 1 / k^3 of the variance; without coordinates of their own they take thousands of passes."""
    generator = torch.Generator().manual_seed(0)
    size, count = 96, 3000
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    spread = torch.arange(1, size + 1) ** -1.5
    whitened = torch.randn(count, size, generator=generator)
    features = (whitened * spread) @ rotation
    right = (whitened.sum(dim=1) > -10 + 3 * torch.randn(count, generator=generator)).numpy()
    index = Index.model_construct(settings=Settings.model_construct(hidden_size=size - 4))
    zeros = np.zeros(count, dtype=np.int64)
    tokens = TokenTable(Path(), index, features[:, -4:].numpy(), right, zeros, zeros, zeros > 0, features)
    problems = [
        Problem(one, np.ones(count, dtype=np.float32), strength)
        for one in (Features.both, Features.hidden)
        for strength in (1e-3, 1.0)
    ]
    found = fit_streamed.solve(tokens, problems)
    assert all(solution.converged for solution in found)
    expected = fit_in_memory.solve(tokens, problems)
    assert all(solution.converged for solution in expected)
    np.testing.assert_allclose(score(tokens, found), score(tokens, expected), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("solver", [fit_in_memory, fit_streamed])
def test_a_solver_that_gave_up_says_so(solver, directed, tmp_path, monkeypatch):
    monkeypatch.setattr("vllm_judge.training.fit.IN_MEMORY_BYTES", (1 << 30) * (solver is fit_in_memory))
    monkeypatch.setattr(solver, "MAX_ITERATIONS" if solver is fit_in_memory else "MAX_PASSES", 2)
    result = CliRunner().invoke(app, ["train", "fit", str(directed), "-o", str(tmp_path)])
    assert result.exit_code == 0 and "warning: the solver gave up before it came to the minimum" in result.output
    assert "gave up" in (tmp_path / "README.md").read_text()


# The last one cross-validates on a third of the training tokens, and fits on all of them from disk.
SIZES = {"streamed": (0, 1 << 30), "in memory": (1 << 30, 1 << 30), "from disk": (0, 1600 * 4 * (HIDDEN + 4))}


@pytest.mark.parametrize(("in_memory_bytes", "sample_bytes"), SIZES.values(), ids=SIZES)
def test_the_head_on_disk_is_the_head_that_was_measured(directed, tmp_path, monkeypatch, in_memory_bytes, sample_bytes):
    monkeypatch.setattr("vllm_judge.training.fit.IN_MEMORY_BYTES", in_memory_bytes)
    monkeypatch.setattr("vllm_judge.training.selection.SAMPLE_BYTES", sample_bytes)
    (tmp_path / "judge.json").write_text("{}")  # of an earlier head there, which was calibrated
    result = CliRunner().invoke(app, ["train", "fit", str(directed), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
    for line in ("both", "hidden", "evidence", "position"):
        assert line in result.output
    head = JudgeHead.from_pretrained(tmp_path)
    tokens = load_table(directed)
    features = torch.cat([block for _, block in tokens.blocks()])
    scores = head.score(features[:, :HIDDEN], features[:, HIDDEN:]).numpy()
    held_out, right = tokens.held_out, tokens.right
    auc = roc_auc_score(right[held_out], scores[held_out])
    ablation = {line["name"]: line for line in head.provenance["ablation"]}
    assert ablation["both"]["auc"]["value"] == pytest.approx(auc, abs=1e-4)
    assert auc > ablation["hidden"]["auc"]["value"] > ablation["position"]["auc"]["value"]
    mismatch = held_out & (tokens.evidence[:, 2] > 0)
    expected = roc_auc_score(right[mismatch], scores[mismatch])
    assert ablation["both"]["auc_mismatch"]["value"] == pytest.approx(expected, abs=1e-4)
    assert (head.target_model, head.provenance["held_out_tokens"]["wrong"]) == ("target", int((~right[held_out]).sum()))
    at_default = next(rate for rate in head.provenance["rates"] if rate["threshold"] == head.threshold)
    assert at_default["false_accepts"] <= 0.01
    card = (tmp_path / "README.md").read_text()
    assert f"| both | {auc:.3f} (" in card and "Warning" not in card
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".md", ".png"}
    assert not (tmp_path / "judge.json").exists()


def test_several_heads_of_one_call_are_those_of_a_call_each(directed, tmp_path):
    both, hidden, alone = (tmp_path / name for name in ("both", "hidden", "alone"))
    asked = ["-o", str(both), "--features", "both", "-o", str(hidden), "--features", "hidden"]
    result = CliRunner().invoke(app, ["train", "fit", str(directed), *asked])
    assert result.exit_code == 0, result.output
    for features in ("both", "hidden"):
        assert f"{tmp_path / features}: a head that reads {features}, default threshold" in result.output
    assert JudgeHead.from_pretrained(both).evidence is not None
    result = CliRunner().invoke(app, ["train", "fit", str(directed), "-o", str(alone), "--features", "hidden"])
    assert result.exit_code == 0, result.output
    assert (alone / "config.json").read_text() == (hidden / "config.json").read_text()
    assert (alone / "model.safetensors").read_bytes() == (hidden / "model.safetensors").read_bytes()


def test_a_head_that_only_knows_position_is_called_out(positional, tmp_path):
    result = CliRunner().invoke(app, ["train", "fit", str(positional), "-o", str(tmp_path), "--features", "hidden"])
    assert result.exit_code == 0, result.output
    assert "warning: this head does not clearly beat a baseline that knows only a token's position" in result.output
    provenance = json.loads((tmp_path / "config.json").read_text())["provenance"]
    aucs = {line["name"]: line["auc"]["value"] for line in provenance["ablation"]}
    assert aucs["hidden"] > 0.6, "it looks well: that is the point"
    assert "does not clearly beat" in (tmp_path / "README.md").read_text()


def test_balanced_positions_leave_nothing_to_learn_where_only_position_counts(positional):
    [plain], [balanced] = (fit_folder(positional, [Features.hidden], balance) for balance in (False, True))
    assert plain.chosen.auc.value > 0.6
    assert balanced.choices[1].features == Features.hidden
    assert balanced.choices[1].loss == pytest.approx(math.log(2), abs=0.05)
    assert balanced.chosen.auc.value == pytest.approx(0.5, abs=0.05)
    assert balanced.ablation[-1].auc.value == pytest.approx(0.5, abs=0.03)
    assert balanced.warnings


def test_balanced_positions_still_find_what_there_is(directed):
    [fitted] = fit_folder(directed, [Features.both], balance_positions=True)
    assert fitted.chosen.auc.value > 0.98 and not fitted.warnings


def test_knowing_questions_by_heart_gains_nothing_in_cross_validation(tmp_path):
    make_hidden_states(tmp_path, by_question)
    tokens = load_table(tmp_path)
    candidates = weightings(tokens, balance_positions=False)
    [choice] = choose(tokens, fit_in_memory.solve, [Features.hidden], candidates)
    [by_heart] = fit_in_memory.solve(tokens, [Problem(Features.hidden, candidates["labels balanced"], 1.0)])
    train = ~tokens.held_out
    assert roc_auc_score(tokens.right[train], score(tokens, [by_heart])[train, 0]) > 0.75
    assert choice.loss > 0.65, "log 2 is knowing nothing"


def test_of_strengths_that_noise_cannot_tell_apart_the_most_careful_is_chosen():
    folds = {1e-4: [0.30, 0.34, 0.32], 1e-2: [0.22, 0.26, 0.24], 1e-1: [0.21, 0.25, 0.23], 1.0: [0.20, 0.26, 0.21]}
    losses = {(Features.both, "labels balanced", strength): found for strength, found in folds.items()}
    assert most_careful(losses).strength == 1e-2, "within the standard error, 0.019, of the best, 0.223"
    clearly = {key: [value + 0.03 * (key[2] != 1.0) for value in found] for key, found in losses.items()}
    assert most_careful(clearly).strength == 1.0


def test_a_threshold_means_the_same_whichever_weighting_was_chosen(directed, monkeypatch):
    at_half = []
    for name in ("labels balanced", "every token the same"):
        monkeypatch.setattr(
            "vllm_judge.training.fit.weightings", lambda *given, name=name: {name: weightings(*given)[name]}
        )
        [fitted] = fit_folder(directed, [Features.both])
        assert {choice.weighting for choice in fitted.choices} == {name}
        at_half.append(next(rate for rate in fitted.rates if rate.threshold == 0.5))
    assert at_half[0].accepts == pytest.approx(at_half[1].accepts, abs=0.02)
    assert at_half[0].false_accepts == pytest.approx(at_half[1].false_accepts, abs=0.04)


def test_cross_validation_of_a_large_folder_sees_whole_training_questions(directed, monkeypatch):
    monkeypatch.setattr("vllm_judge.training.selection.SAMPLE_BYTES", 1600 * 4 * (HIDDEN + 4))
    tokens = load_table(directed)
    chosen = some_questions(tokens)
    assert 1500 < chosen.sum() <= 1600 and not tokens.held_out[chosen].any()
    assert not set(tokens.question[chosen]) & set(tokens.question[~chosen])
    sample = tokens.in_memory(chosen)
    assert len(sample) == chosen.sum() and np.array_equal(sample.right, tokens.right[chosen])
    everything = torch.cat([block for _, block in tokens.blocks()])
    assert torch.equal(torch.cat([block for _, block in sample.blocks()]), everything[torch.from_numpy(chosen)])


def test_an_interval_is_over_questions_and_ties_count_half():
    rng = np.random.default_rng(0)
    question = np.repeat(np.arange(60), 50)
    right = np.repeat(rng.random(60) < 0.5, 50)
    scores = np.repeat((right[::50] + rng.normal(size=60)).round(1), 50)
    weights = rng.random(len(right))
    whole = QuestionBootstrap(right, question, weights).auc(scores)
    assert whole.value == pytest.approx(roc_auc_score(right, scores, sample_weight=weights))
    alone = QuestionBootstrap(right, np.arange(len(right)), weights).auc(scores)
    assert whole.high - whole.low > 4 * (alone.high - alone.low)
    same = QuestionBootstrap(right, question, weights).difference(scores, scores)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_rates_are_of_each_label_by_itself():
    scores = np.array([-9.0, 0.1, 9.0, -9.0, 9.0])
    right = np.array([True, True, True, False, False])
    rates = {one.threshold: one for one in rates_by_threshold(scores, right)}
    assert (rates[0.5].accepts, rates[0.5].false_accepts, rates[0.5].precision) == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    assert rates_by_threshold(np.full(5, -99.0), right)[0].precision is None


def test_what_cannot_be_fitted_is_said_in_one_sentence(directed, tmp_path):
    def refusal(folder: Path) -> str:
        result = CliRunner().invoke(app, ["train", "fit", str(folder), "-o", str(tmp_path / "head")])
        assert result.exit_code == 1
        return result.output

    assert "holds no hidden states" in refusal(tmp_path)
    for_two = ["train", "fit", str(directed), "-o", str(tmp_path / "one"), "-o", str(tmp_path / "two")]
    assert "give one --features for each --output: found 1 and 2." in CliRunner().invoke(app, for_two).output
    make_hidden_states(tmp_path / "right", lambda whitened, position, generator: torch.ones(len(whitened)).bool())
    assert "right tokens and 0 mistakes, at least 10 of each are needed" in refusal(tmp_path / "right")
    make_hidden_states(tmp_path / "cut", along_direction)
    shard = tmp_path / "cut" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "shard-00001.safetensors is damaged" in refusal(tmp_path / "cut")
