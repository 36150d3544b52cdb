"""What a judge section becomes on its way to the workers, and what is said of it at start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub import Hub
from vllm.engine.arg_utils import EngineArgs

from vllm_judge import JudgeHead
from vllm_judge.config import read_speculative_config
from vllm_judge.engine import hooks
from vllm_judge.engine.judge import Judge
from vllm_judge.errors import JudgeConfigError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hooks.install()
    root = tmp_path_factory.mktemp("models")
    tiny.make_target(root / "target")
    tiny.make_head(root / "judge", 0.0)
    return root


def judge_config(models: Path, head: Any, target: Path | None = None) -> Any:
    speculative = {"method": "ngram", "num_speculative_tokens": 4, "judge": {"model": str(head)}}
    args = {"model": str(target or models / "target"), "dtype": "float32", "enforce_eager": True}
    return EngineArgs(**args, speculative_config=speculative).create_engine_config().speculative_config.judge


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been warned of a judge."""
    caplog.set_level("WARNING", "vllm.judge")  # vLLM may have been imported by a quiet command before
    return lambda: [record.getMessage() for record in caplog.records if record.name == "vllm.judge"]


def test_a_relative_folder_reaches_the_workers_as_an_absolute_one(models, monkeypatch):
    monkeypatch.chdir(models)
    judge = judge_config(models, "judge")
    assert (judge.model, judge.revision) == (str(models / "judge"), None)


def test_a_repository_reaches_the_workers_as_one_commit_whose_branch_may_move_on(models, monkeypatch, tmp_path):
    with Hub() as hub:
        hub.serve_to(monkeypatch, cache=tmp_path / "cache")
        hub.commit(tiny.make_head(tmp_path / "a", 1.0))
        judge = judge_config(models, hub.NAME)
        assert (judge.model, judge.revision) == (hub.NAME, hub.head)
        hub.commit(tiny.make_head(tmp_path / "b", 2.0))
        assert float(Judge(judge, tiny.VOCAB, "cpu").head.bias) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("trained_on", [None, "target", "someone/Target", "/another/machine/target", "{target}"])
def test_a_head_of_this_target_is_loaded_without_a_word(models, tmp_path, said, trained_on):
    head = named(models, tmp_path, trained_on)
    judge_config(models, head)
    assert said() == []


def test_a_head_of_a_target_in_the_hubs_cache_is_loaded_without_a_word(models, tmp_path, said):
    cached = tmp_path / "models--someone--Tiny-Target" / "snapshots" / ("a" * 40)
    shutil.copytree(models / "target", cached)
    judge_config(models, named(models, tmp_path, "someone/tiny-target"), cached)
    assert said() == []


def test_a_head_of_another_target_is_loaded_with_a_warning(models, tmp_path, said):
    head = named(models, tmp_path, "someone/target-8B")
    judge_config(models, head)
    assert said() == [
        f"judge: the head in {head} was trained on someone/target-8B, and the target is {models / 'target'}: "
        "use a head of this target, or measure the quality of this one."
    ]


def named(models: Path, folder: Path, target_model: str | None) -> Path:
    target_model = target_model and target_model.replace("{target}", str(models / "target"))
    JudgeHead(tiny.HIDDEN, target_model=target_model).save_pretrained(folder / "head")
    return folder / "head"


def test_the_rust_front_end_is_said_to_show_no_counter(models, monkeypatch, said):
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    judge_config(models, models / "judge")
    assert said() == [
        "judge: the Rust front end's /metrics does not show vllm:spec_decode_num_judge_only_tokens; "
        "set VLLM_USE_RUST_FRONTEND=0 where it is needed."
    ]


@pytest.mark.parametrize("text", ["{" * 10_000, '{"a": ' + "9" * 5000 + "}"], ids=["deep", "digits"])
def test_a_file_that_no_parser_takes_is_refused(tmp_path, text):
    (tmp_path / "judge.json").write_text(text)
    with pytest.raises(JudgeConfigError, match="is not valid JSON"):
        read_speculative_config(tmp_path / "judge.json")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800"])
def test_a_head_by_a_name_that_no_file_can_have_is_refused(models, tmp_path, name):
    (tmp_path / "judge.json").write_text(json.dumps({"method": "ngram", "judge": {"model": name}}))
    with pytest.raises(JudgeConfigError, match=r"judge\.model"):
        read_speculative_config(tmp_path / "judge.json")
        judge_config(models, name)
