"""What is measured, from the command's options: one sentence for each that means nothing where it stands."""

import json

import pytest
from typer.testing import CliRunner

from vllm_judge.calibration import checkpoint
from vllm_judge.calibration.drafter import drafter
from vllm_judge.calibration.sources import cycles
from vllm_judge.cli import app
from vllm_judge.config import read_speculative_config
from vllm_judge.judge_json import write_judge_json

NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}


def test_a_drafter_is_a_draft_model_or_any_config_of_vllms(tmp_path):
    assert drafter("d", None, None) == {"method": "draft_model", "model": "d", "num_speculative_tokens": 16}
    assert drafter(None, dict(NGRAM), None) == NGRAM
    (tmp_path / "eagle").mkdir()
    path = tmp_path / "eagle.json"
    path.write_text(json.dumps({"method": "eagle3", "model": "eagle"}))
    found = drafter(None, str(path), 5)
    assert found == {"method": "eagle3", "model": str(tmp_path / "eagle"), "num_speculative_tokens": 5}


def test_judge_json_holds_all_that_was_measured_of_the_drafter(tmp_path):
    for config, model in (
        (NGRAM, None),
        ({"method": "eagle3", "model": str(tmp_path / "head" / "eagle"), "num_speculative_tokens": 3}, "./eagle"),
        ({"method": "eagle3", "model": "someone/eagle", "num_speculative_tokens": 3}, "someone/eagle"),
        ({"method": "eagle3", "model": str(tmp_path / "x"), "num_speculative_tokens": 3}, str(tmp_path / "x")),
    ):
        (tmp_path / "head" / "eagle").mkdir(parents=True, exist_ok=True)
        write_judge_json(tmp_path / "head", config)
        written = json.loads((tmp_path / "head" / "judge.json").read_text())
        assert written == config | ({} if model is None else {"model": model}) | {"judge": {"model": "."}}
        assert read_speculative_config(tmp_path / "head")[0] == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --draft or --speculative-config: what drafts?"),
        (["--draft", "d", "--speculative-config", "{}"], "give either --draft or --speculative-config: what drafts?"),
        (["--speculative-config", '{"method": "ngram"}'], "does not say num_speculative_tokens"),
        (["--speculative-config", json.dumps({**NGRAM, "judge": {"model": "h"}})], "has a section judge: leave it out"),
        (["--speculative-config", "{oh"], "--speculative-config is not JSON"),
        (["--draft", "d", "--batch-size", "3"], "--batch-size can be given with --source transformers only."),
        (["--draft", "d", "--device-map", "auto"], "--device-map can be given with --source transformers only."),
        (["--draft", "d", "--concurrency", "3"], "--concurrency can be given with --url only."),
        (
            ["--draft", "d", "--url", "http://x", "--engine", '{"seed": 1}'],
            "--engine can be given with an engine in this",
        ),
        (["--draft", "d", "--url", "http://x", "--head", "."], "a server judges with one head: give one --head"),
        (["--draft", "d", "--source", "transformers", "--url", "u"], "--url can be given with --source vllm only."),
        (
            ["--source", "transformers", "--speculative-config", json.dumps(NGRAM)],
            "decodes with a plain draft model only",
        ),
        (
            ["--draft", "d", "--engine", '{"model": "m"}'],
            "--engine must leave out model: the command sets that itself.",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, message):
    command = ["calibrate", "questions.jsonl", "--target", "t", "--head", str(tmp_path), "-o", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 1 and message in done.output
    assert not (tmp_path / "o").exists()


def test_a_histogram_is_the_cycles_and_steps_without_drafts_are_cycles_that_accept_none():
    assert cycles([1, 0, 2], 2) == [0, 0, 0, 2, 2]


def test_a_checkpoint_is_told_from_one_that_was_trained_further(world):
    import torch
    from safetensors.torch import load_file, save_file

    before = checkpoint.fingerprint(str(world / "target"))
    assert before != checkpoint.fingerprint(str(world / "draft"))
    weights = load_file(world / "target" / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.dim() == 1)
    save_file(
        {**weights, name: weights[name] + torch.tensor(0.001)}, world / "target" / "model.safetensors", {"format": "pt"}
    )
    assert checkpoint.fingerprint(str(world / "target")) != before
