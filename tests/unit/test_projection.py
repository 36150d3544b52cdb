"""The projection against published figures, against simulated decoding, and against its own closed forms.

It would catch: the target's own token counted twice or not at all, a verification that is charged as one token, a
survival curve shifted by one draft, a break-even batch that is off by one, and a best M that is only a local one.
"""

import json
import random

import pytest
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.evaluation.projection import Acceptance, Projection, ProjectionError, StepTime

FOREVER = float("inf")  # a ridge that is never reached: every pass is bound by memory


def chance_of(accepted: float, num_drafts: int) -> float:
    return Acceptance.from_mean(accepted, num_drafts).survival[0]


@pytest.mark.parametrize(
    ("chance", "drafts", "speed_up"),
    [(0.6, 2, 1.96), (0.7, 3, 2.53), (0.8, 2, 2.44), (0.8, 5, 3.69), (0.9, 2, 2.71), (0.9, 10, 6.86)],
)
def test_table_1_of_leviathan_et_al(chance, drafts, speed_up):
    """There the draft model costs nothing."""
    acceptance = Acceptance.from_mean(sum(chance**i for i in range(1, drafts + 1)), drafts)
    projection = Projection(acceptance, StepTime(1.0, FOREVER), StepTime(0.0, FOREVER))
    assert round(projection.speed_up(drafts), 2) == speed_up


@pytest.mark.parametrize(("chance", "drafts", "cost"), [(0.8, 5, 0.1), (0.95, 16, 0.05), (0.3, 4, 0.3)])
def test_theorem_3_8_of_leviathan_et_al(chance, drafts, cost):
    acceptance = Acceptance.from_mean(sum(chance**i for i in range(1, drafts + 1)), drafts)
    projection = Projection(acceptance, StepTime(7.0, FOREVER), StepTime(7.0 * cost, FOREVER))
    expected = (1 - chance ** (drafts + 1)) / ((1 - chance) * (drafts * cost + 1))
    assert projection.speed_up(drafts) == pytest.approx(expected)


# Llama-3.1 on H100 SXM (3.35e12 bytes/s), 16-bit weights, bound by memory.
STEP_8B, STEP_70B_ON_2 = 8.03e9 * 2 / 3.35e9, 70.6e9 * 2 / 2 / 3.35e9  # ms


def test_a_step_bound_by_memory_is_the_published_one_of_8b_70b():
    """141 tokens/s are 3 times plain decoding: 21.3 ms a token."""
    assert pytest.approx(1000 * 3.0 / 141, rel=0.02) == STEP_70B_ON_2


def test_the_published_speed_up_of_8b_405b():
    """3.9x and 129 tokens/s in gpt-fast, 19.7 accepted (Bachmann et al.): plain decoding takes 30.2 ms a token.

    How many tokens were drafted is not known here. 25 bring the projection within 7%, 20 to 30 within 28%.
    """
    target = StepTime(1000 * 3.9 / 129, FOREVER)
    error = {}
    for drafts in (20, 25, 30):
        projection = Projection(Acceptance.from_mean(19.7, drafts), target, StepTime(STEP_8B, FOREVER))
        error[drafts] = projection.speed_up(drafts) / 3.9 - 1
    assert error == pytest.approx({20: 0.27, 25: 0.07, 30: -0.08}, abs=0.01)


def test_with_as_many_drafts_strict_verification_would_hardly_gain():
    """6.3 accepted: fewer drafts are better, and still not as good as the judge's."""
    target, draft = StepTime(1000 * 3.9 / 129, FOREVER), StepTime(STEP_8B, FOREVER)
    strict = Projection(Acceptance.from_mean(6.3, 25), target, draft)
    assert strict.speed_up(25) < 1.5
    assert strict.best_num_drafts() < 12
    assert 2.0 < strict.speed_up(strict.best_num_drafts()) < 3.9


def simulated(projection: Projection, chance: float, drafts: int, batch: int, tokens: int) -> float:
    """Decodes for `batch` requests in step, and takes the time."""
    rng = random.Random(0)
    made, seconds = 0, 0.0
    while made < tokens:
        seconds += sum(projection.draft.of(batch) for _ in range(drafts)) + projection.overhead
        seconds += projection.target.of(batch * (drafts + 1))
        for _ in range(batch):
            accepted = 0
            while accepted < drafts and rng.random() < chance:
                accepted += 1
            made += accepted + 1
    plain = batch / projection.target.of(batch)  # tokens per unit of time
    return made / seconds / plain


@pytest.mark.parametrize(("chance", "drafts", "batch"), [(0.9, 8, 1), (0.9, 8, 20), (0.6, 3, 64)])
def test_simulated_decoding_has_the_projected_speed_up(chance, drafts, batch):
    acceptance = Acceptance.from_mean(sum(chance**i for i in range(1, drafts + 1)), drafts)
    projection = Projection(acceptance, StepTime(10.0, 100.0), StepTime(1.0, 50.0), overhead=0.3)
    found = simulated(projection, chance, drafts, batch, tokens=100_000)
    assert found == pytest.approx(projection.speed_up(drafts, batch), rel=0.01)


def test_a_measured_distribution_is_what_fewer_drafts_would_have_given():
    counts = [10, 20, 30, 40]  # of 100 cycles of 3 drafts
    acceptance = Acceptance.measured(counts, "here")
    for drafts in range(4):
        assert acceptance.expected(drafts) == pytest.approx(
            sum(count * min(accepted, drafts) for accepted, count in enumerate(counts)) / 100
        )


def test_a_mean_gives_itself_back():
    for accepted, drafts in [(0.0, 4), (6.3, 16), (15.9, 16), (16.0, 16)]:
        assert Acceptance.from_mean(accepted, drafts).expected(drafts) == pytest.approx(accepted, abs=1e-6)
    assert chance_of(0.5, 1) == pytest.approx(0.5)


def test_the_break_even_batch_is_the_closed_form():
    """Between ridge / (M + 1) and ridge only the verification grows: B = ridge (1 + E - M c) / (M + 1)."""
    for accepted, drafts, cost in [(12.0, 16, 0.1), (6.0, 8, 0.05), (3.0, 4, 0.2)]:
        acceptance = Acceptance.from_mean(accepted, drafts)
        projection = Projection(acceptance, StepTime(1.0, 295.0), StepTime(cost, 295.0))
        batch = projection.break_even_batch(drafts)
        assert batch == int(295.0 * (1 + accepted - drafts * cost) / (drafts + 1))
        assert projection.speed_up(drafts, batch) >= 1.0 > projection.speed_up(drafts, batch + 1)


def test_there_may_be_no_batch_that_pays_or_none_that_does_not():
    all_accepted = Acceptance.measured([0, 0, 0, 5], "here")
    free, dear = StepTime(0.0, 295.0), StepTime(2.0, 295.0)
    assert Projection(all_accepted, StepTime(1.0, 295.0), free).break_even_batch(3) is None
    assert Projection(all_accepted, StepTime(1.0, 295.0), dear).break_even_batch(3) == 0
    assert Projection(all_accepted, StepTime(1.0, 295.0), dear).best_num_drafts() == 0


def test_the_best_number_of_drafts_falls_as_the_batch_grows():
    projection = Projection(Acceptance.from_mean(12.0, 16), StepTime(1.0, 295.0), StepTime(0.05, 295.0))
    best = [projection.best_num_drafts(batch) for batch in (1, 16, 64, 512)]
    assert best == sorted(best, reverse=True) and best[0] > best[-1] == 0
    for batch, drafts in zip((1, 16, 64), best, strict=False):
        assert all(projection.speed_up(drafts, batch) >= projection.speed_up(m, batch) for m in range(129))


@pytest.mark.parametrize("counts", [[], [3], [0, 0], [1, -1]])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ProjectionError, match="counts of cycles"):
        Acceptance.measured(counts, "here")


def test_a_mean_beyond_the_drafts_is_refused():
    with pytest.raises(ProjectionError, match="of 4 drafts"):
        Acceptance.from_mean(4.1, 4)


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["project", "--target-step", "30.2", "--draft-step", "4.8", *arguments]).output


def test_the_command_reads_a_comparison_and_says_that_it_projects(tmp_path):
    points = [
        {"rule": "strict", "setting": {}, "n": 9, "accepted_counts": [5, 5, 0]},
        {"rule": "judge", "setting": {"threshold": 0.5}, "n": 9, "accepted_counts": [0, 5, 5]},
        {"rule": "judge", "setting": {"threshold": 0.9}, "n": 9, "accepted_counts": [2, 4, 4]},
    ]
    path, out = tmp_path / "results.json", tmp_path / "figures.json"
    path.write_text(json.dumps({"points": points}))
    shown = run("--results", str(path), "--rule", "judge:threshold=0.9", "--batch", "1", "--json", str(out))
    assert "projection, not a measurement" in shown
    figures = json.loads(out.read_text())
    assert figures["expected_accepted"] == pytest.approx(1.2)
    assert figures["batches"][0]["speed_up"] == pytest.approx(2.2 * 30.2 / (2 * 4.8 + 30.2))
    assert "judge:threshold=0.5, judge:threshold=0.9" in run("--results", str(path), "--rule", "judge").replace(
        "\n", " "
    )
    assert "give either" in run("--accepted", "3")
    assert "is no results.json of" in run("--results", str(out), "--rule", "judge")
