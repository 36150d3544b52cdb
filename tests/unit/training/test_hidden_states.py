"""Hidden states by transformers, on a tiny chat model and a real disk, up to a real kill.

It would catch: the state of the row before or without the final norm, evidence of the token's own row or through the
wrong output layer, a prompt unlike the server's, labels or positions that shifted, a shard lost, repeated or half
written by a kill or a full disk, two runs mixed in one folder.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from chat_model import make_chat_model, write_court
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from vllm_judge.cli import app
from vllm_judge.kernels.reference import evidence
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Verdict
from vllm_judge.tokencourt.questions import split_of
from vllm_judge.training import shards, sources
from vllm_judge.training.shards import read_index
from vllm_judge.training.table import load_table

ATOL = 1e-4  # fp32, one pass against another


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("target"), tied=request.param)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("untied"))


def arguments(court: Path, target: Path, folder: Path, *more: str) -> list[str]:
    command = ["train", "hidden-states", str(court), "--target", str(target), "-o", str(folder)]
    return [*command, "--source", "transformers", "--dtype", "float32", *more]


def extract(court: Path, target: Path, folder: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments(court, target, folder, *more))
    return result.exit_code, result.output


def test_each_token_has_its_own_row_and_the_evidence_of_the_row_before(target, tmp_path):
    answers = write_court(tmp_path / "court.jsonl", 3)
    code, said = extract(tmp_path / "court.jsonl", target, tmp_path / "states")
    assert code == 0, said
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(target)
    [shard] = read_index(tmp_path / "states").shards
    stored = load_file(tmp_path / "states" / shard.file)
    assert [answer.id for answer in shard.answers] == [answer.id for answer in answers]
    for answer, entry in zip(answers, shard.answers, strict=True):
        assert entry.split == split_of(answer.messages)
        text = f"<user>{answer.messages[0].content}<assistant>"
        labelled = answer.answer if answer.mistake is None else answer.answer[: answer.mistake.end]
        rows = range(entry.start, entry.stop)
        assert len(rows) == len(labelled), "one token a byte, none after the mistake"
        for position, row in enumerate(rows):
            text += answer.answer[position]
            ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
            with torch.inference_mode():
                output = model(ids, output_hidden_states=True)
            torch.testing.assert_close(stored["hidden"][row], output.hidden_states[-1][0, -1], atol=ATOL, rtol=ATOL)
            expected = evidence(output.logits[0, -2], ids[0, -1])
            torch.testing.assert_close(stored["evidence"][row], expected, atol=ATOL, rtol=ATOL)
            assert stored["token"][row] == ids[0, -1]
            assert stored["position"][row] == position
            assert stored["right"][row] == (answer.mistake is None or position < answer.mistake.start)


def test_bfloat16_halves_the_disk_and_keeps_the_evidence(untied, tmp_path):
    write_court(tmp_path / "court.jsonl", 2)
    for store in ("float32", "bfloat16"):
        extract(tmp_path / "court.jsonl", untied, tmp_path / store, "--store", store)
    whole, half = (load_file(tmp_path / store / "shard-00000.safetensors") for store in ("float32", "bfloat16"))
    assert half["hidden"].dtype == torch.bfloat16
    assert torch.equal(half["hidden"], whole["hidden"].bfloat16())
    assert torch.equal(half["evidence"], whole["evidence"])
    assert load_table(tmp_path / "bfloat16").blocks().__next__()[1].dtype == torch.float32


def test_killed_it_goes_on_and_makes_the_same_shards(untied, tmp_path):
    court, folder = tmp_path / "court.jsonl", tmp_path / "states"
    write_court(court, 2 * shards.SHARD_ANSWERS)
    command = [sys.executable, "-c", "from vllm_judge.cli import main; main()", *arguments(court, untied, folder)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("shard-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    index = read_index(folder)
    assert 0 < len(done) < len(index.shards) == 4, "the kill came too late to show anything"
    assert (
        "is unfinished" in CliRunner().invoke(app, ["train", "fit", str(folder), "-o", str(tmp_path / "head")]).output
    )

    missing = next(shard.file for shard in index.shards if shard.file not in done)
    (folder / f".{missing}.part").write_bytes(b"what a kill in the middle of a shard leaves")

    assert extract(court, untied, folder)[0] == 0
    assert {path.name for path in folder.iterdir()} == {"index.json", *(shard.file for shard in index.shards)}
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == done
    assert extract(court, untied, tmp_path / "at-once")[0] == 0
    for shard in index.shards:
        resumed, at_once = (load_file(path / shard.file) for path in (folder, tmp_path / "at-once"))
        assert all(torch.equal(resumed[name], at_once[name]) for name in at_once)


def test_a_full_disk_leaves_no_half_shard(untied, tmp_path):
    write_court(tmp_path / "court.jsonl", 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code, said = extract(tmp_path / "court.jsonl", untied, tmp_path / "states")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1 and "shard-00000.safetensors cannot be written" in said
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["index.json"]
    assert extract(tmp_path / "court.jsonl", untied, tmp_path / "states")[0] == 0


def test_other_labels_do_not_go_into_the_same_folder(untied, tmp_path):
    court, folder = tmp_path / "court.jsonl", tmp_path / "states"
    write_court(court, 2)
    assert extract(court, untied, folder)[0] == 0
    write_court(court, 3)
    code, said = extract(court, untied, folder)
    assert code == 1 and "holds hidden states of another run (different: sequences" in said
    write_court(court, 2)
    code, said = extract(court, untied, folder, "--store", "bfloat16")
    assert code == 1 and "(different: store)" in said


def test_answers_that_cannot_be_used_are_named(untied, tmp_path):
    answers = write_court(tmp_path / "court.jsonl", 2)
    long = answers[0].model_copy(update={"id": "long", "answer": "x" * 300})
    unlabelled = answers[0].model_copy(update={"id": "unlabelled", "verdict": Verdict.unknown})
    records.write(tmp_path / "court.jsonl", [*answers, long, unlabelled])
    code, said = extract(tmp_path / "court.jsonl", untied, tmp_path / "states")
    assert code == 0 and "labelled tokens of 4 answers" in said
    assert "1 answers left out, they have more than 255 tokens: long" in said
    assert "1 answers left out, nothing in them is labelled: unlabelled" in said


def test_a_long_answer_is_read_in_parts_that_know_the_parts_before(untied, tmp_path, monkeypatch):
    write_court(tmp_path / "court.jsonl", 2)
    extract(tmp_path / "court.jsonl", untied, tmp_path / "whole")
    monkeypatch.setattr(sources, "ROWS", 7)
    extract(tmp_path / "court.jsonl", untied, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "shard-00000.safetensors") for name in ("whole", "parts"))
    for name in ("hidden", "evidence"):
        torch.testing.assert_close(parts[name], whole[name], atol=ATOL, rtol=ATOL)


def test_a_target_without_a_chat_template_is_refused(tmp_path):
    target = make_chat_model(tmp_path / "target")
    (target / "chat_template.jinja").unlink()
    write_court(tmp_path / "court.jsonl", 2)
    code, said = extract(tmp_path / "court.jsonl", target, tmp_path / "states")
    assert code == 1 and "has no chat template" in said.replace("\n", " ")
    assert said.count("vllm-judge:") == 1


def test_a_target_whose_configuration_says_another_width_is_refused(untied, tmp_path):
    write_court(tmp_path / "court.jsonl", 2)
    target = shutil.copytree(untied, tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "word_embed_proj_dim": 24}))
    code, said = extract(tmp_path / "court.jsonl", target, tmp_path / "states")
    width = config["hidden_size"]
    assert code == 1 and f"reads {width} values a token, and its configuration says 24" in said.replace("\n", " ")
