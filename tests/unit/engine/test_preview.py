"""`vllm-judge validate`: what would run and what would be refused, by what an engine's own start says.

It would catch: a check that an engine makes and this does not, a second refusal that is not said, a promise that is
shown for other settings than it was measured with.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from typer.testing import CliRunner
from vllm.engine.arg_utils import EngineArgs

from vllm_judge import JudgeHead
from vllm_judge.cli import app
from vllm_judge.engine import hooks
from vllm_judge.errors import JudgeConfigError

PROMISE = "Accuracy at most 1 percentage points below strict verification's."
CALIBRATION = {"promise": PROMISE, "num_speculative_tokens": 4}
CONFIG = {"method": "draft_model", "model": "../draft", "num_speculative_tokens": 4, "judge": {"model": "."}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hooks.install()
    root = tmp_path_factory.mktemp("models")
    tiny.make_draft(tiny.make_target(root / "target"), root / "draft")
    return root


def deployment(models: Path, name: str, config: dict[str, Any], **head: Any) -> Path:
    fields = {"hidden_size": tiny.HIDDEN, "use_evidence": True, "threshold": 0.7} | head
    JudgeHead(**{"target_model": str(models / "target"), **fields}).save_pretrained(models / name)
    (models / name / "judge.json").write_text(json.dumps(config))
    return models / name


def validate(source: Path, *more: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["validate", str(source), *more])
    lines = [line for line in done.output.splitlines() if "Triton" not in line]
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, lines


def test_what_would_run_is_said(models, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    folder = deployment(models, "target-judge", CONFIG, provenance={"calibration": CALIBRATION})
    code, lines = validate(folder)
    assert code == 0
    version = lines.pop(1)
    assert version.startswith("vLLM           0.3")
    assert lines == [
        f"target         {models / 'target'}",
        "model runner   V1",
        f"drafter        draft_model, {models / 'draft'}, 4 drafts per cycle",
        f"head           {folder}",
        "reads          64 numbers of the hidden state (own row, input of the output layer) and evidence "
        "(log_prob, entropy, margin, top_prob)",
        "threshold      0.7 (the head's own)",
        f"fitted on      {models / 'target'}",
        f"promise        {PROMISE}",
        f"Nothing is refused: vllm serve {models / 'target'} --speculative-config {folder}",
    ]


def test_a_promise_for_other_settings_is_not_passed_off_as_this_ones(models):
    config = CONFIG | {"num_speculative_tokens": 3, "judge": {"model": ".", "threshold": 0.2}}
    folder = deployment(models, "other-settings", config, provenance={"calibration": CALIBRATION})
    code, lines = validate(folder)
    assert code == 0
    assert "threshold      0.2 (the head's own is 0.7)" in lines
    assert [line for line in lines if "warning" in line] == [
        "vllm-judge: warning: the promise is for threshold 0.7, and this config has 0.2: calibrate with it, or use it.",
        "vllm-judge: warning: the promise is for num_speculative_tokens 4, and this config has 3: "
        "calibrate with it, or use it.",
    ]


def started(models: Path, source: Path, **options: Any) -> str:
    """What an engine's start says."""
    args = {"model": str(models / "target"), "speculative_config": str(source)}
    with pytest.raises(JudgeConfigError) as caught:
        EngineArgs(**args | options).create_engine_config()
    return str(caught.value)


def test_what_an_engine_refuses_is_refused_in_its_words_and_all_of_it_is_said(models):
    speculative = {"method": "ngram", "num_speculative_tokens": 4}
    speculative |= {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.0}
    folder = deployment(models, "refused", {**speculative, "judge": {"model": "."}}, hidden_size=96)
    code, lines = validate(folder)
    refused = [line.removeprefix("vllm-judge: ") for line in lines if "refused: " in line]
    assert (code, len(refused)) == (1, 2)
    assert refused[0] == f"refused: {started(models, folder)}"
    (folder / "judge.json").write_text(
        json.dumps({"method": "ngram", "num_speculative_tokens": 4, "judge": {"model": "."}})
    )
    assert refused[1] == f"refused: {started(models, folder)}"
    assert "drafter        ngram, 4 drafts per cycle" in lines


@pytest.mark.parametrize(
    "config",
    [{"judge": {"model": "."}}, {"method": "ngram", "judge": {"model": "."}}, CONFIG | {"metod": 1}],
    ids=["no drafter", "no number", "unknown key"],
)
def test_a_speculative_config_that_vllm_does_not_take_is_refused_as_at_a_start(models, config):
    folder = deployment(models, "speculative", config)
    code, lines = validate(folder)
    assert code == 1 and lines[-1].removeprefix("vllm-judge: ").removeprefix("refused: ") == started(models, folder)


def test_options_of_the_engine_count(models):
    folder = deployment(models, "options", CONFIG)
    code, lines = validate(folder, "--engine", '{"runner": "pooling"}')
    assert (code, lines[-1]) == (1, f"vllm-judge: refused: {started(models, folder, runner='pooling')}")


def test_a_head_of_another_target_is_doubted(models):
    folder = deployment(models, "another", CONFIG, target_model="someone/else")
    code, lines = validate(folder, "--target", str(models / "target"))
    assert code == 0 and any(f"warning: the head in {folder} was trained on someone/else" in line for line in lines)


def test_what_cannot_be_configured_at_all_is_one_sentence(models):
    head = deployment(models, "targetless", CONFIG, target_model=None)
    assert validate(head) == (
        1,
        [f"vllm-judge: the head in {head} does not say which target it was fitted on: name the target."],
    )
    code, lines = validate(head, "--target", str(models / "nowhere"))
    assert code == 1 and len(lines) == 1
    assert lines[0].startswith(f"vllm-judge: vLLM makes no configuration for {models / 'nowhere'}: ")
    (head / "judge.json").write_text('{"method": "ngram"}')
    assert validate(head) == (
        1,
        [f'vllm-judge: {head} has no section judge: write "judge": {{"model": "."}} into it.'],
    )


def test_what_a_judge_does_not_by_default_is_said(models):
    section = {"model": ".", "share": 0.05, "scope": "thinking"}
    folder = deployment(models, "canary", {**CONFIG, "judge": section})
    reasoning = json.dumps({"reasoning_config": {"reasoning_start_str": "w10", "reasoning_end_str": "w11"}})
    code, lines = validate(folder, "--engine", reasoning)
    assert code == 0
    assert "judges         5% of the requests, the others in shadow, reasoning only" in lines
    code, lines = validate(folder)
    assert code == 1 and any(
        "judge.scope 'thinking' needs to know what begins and ends reasoning" in line for line in lines
    )
    assert (
        "judges         nothing: shadow"
        in validate(deployment(models, "shadow", {**CONFIG, "judge": {"model": ".", "mode": "shadow"}}))[1]
    )
