"""A head's folder or repository as the speculative config: what it stands for, and what is refused.

It would catch: paths relative to anywhere but judge.json, a head of another commit than the judge.json that names it, a
look into the network for a path that is misspelt.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub import Hub
from vllm.engine.arg_utils import EngineArgs

from vllm_judge.config import JudgeConfigError, read_speculative_config
from vllm_judge.engine import hooks
from vllm_judge.engine.judge import Judge

COMMIT = "c" * 40
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "judge": {"model": "."}}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hooks.install()
    return tiny.make_target(tmp_path_factory.mktemp("models") / "target")


def deployment(folder: Path, bias: float = 0.0, config: dict[str, Any] = NGRAM) -> Path:
    tiny.make_head(folder, bias)
    (folder / "judge.json").write_text(json.dumps(config))
    return folder


def engine_config(target: Path, source: object) -> Any:
    args = {"model": str(target), "dtype": "float32", "enforce_eager": True}
    return EngineArgs(**args, speculative_config=str(source)).create_engine_config()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the repository someone/tiny-judge lies in a cache of a machine without network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = cache / "models--someone--tiny-judge"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_heads_folder_names_itself_and_the_draft_that_lies_in_it(target, tmp_path, monkeypatch):
    config = {"method": "draft_model", "model": "draft", "num_speculative_tokens": 3, "judge": {"model": "."}}
    folder = deployment(tmp_path / "tiny-judge", config=config)
    tiny.make_draft(target, folder / "draft")
    monkeypatch.chdir(tmp_path)
    speculative = engine_config(target, "tiny-judge").speculative_config
    assert (speculative.model, speculative.num_speculative_tokens) == (str(folder / "draft"), 3)
    assert (speculative.judge.model, speculative.judge.revision) == (str(folder), None)


def test_a_heads_repository_names_itself_by_the_commit_of_its_judge_json(target, cached):
    deployment(cached, bias=3.0)
    judge = engine_config(target, "someone/tiny-judge").speculative_config.judge
    assert (judge.model, judge.revision) == ("someone/tiny-judge", COMMIT)
    assert float(Judge(judge, tiny.VOCAB, "cpu").head.bias) == 3.0  # type: ignore[arg-type]


def test_a_draft_may_lie_in_the_heads_repository(cached):
    folder = deployment(cached, config={"method": "draft_model", "model": "./draft", "judge": {"model": "."}})
    with pytest.raises(JudgeConfigError) as caught:
        read_speculative_config("someone/tiny-judge")
    assert str(caught.value) == (
        "model in judge.json of someone/tiny-judge is ./draft, and that repository has no such folder."
    )
    (folder / "draft").mkdir()
    config, _ = read_speculative_config("someone/tiny-judge")
    assert config["model"] == str(folder / "draft")


def test_a_repository_that_moves_on_does_not_mix_two_commits(tmp_path, monkeypatch):
    with Hub() as hub:
        hub.serve_to(monkeypatch, cache=tmp_path / "cache")
        hub.commit(deployment(tmp_path / "a", 1.0))
        _, section = read_speculative_config(hub.NAME)
        first = hub.head
        hub.commit(deployment(tmp_path / "b", 2.0))
        assert section is not None and (section.model, section.revision) == (hub.NAME, first)
        _, section = read_speculative_config(hub.NAME)
        assert section is not None and section.revision == hub.head != first


def refusal(source: object) -> str:
    with pytest.raises(JudgeConfigError) as caught:
        read_speculative_config(str(source))
    return str(caught.value)


def test_a_folder_without_judge_json_is_refused(tmp_path):
    folder = tiny.make_head(tmp_path / "head", 0.0)
    assert refusal(folder) == (
        f"speculative_config names the folder {folder}, which holds no judge.json: "
        "write one, calibrate the head that is in it (which does), or give a JSON file or JSON text."
    )


def test_a_repository_without_judge_json_is_refused(tmp_path, monkeypatch):
    with Hub() as hub:
        hub.serve_to(monkeypatch, cache=tmp_path / "cache")
        hub.commit(tiny.make_head(tmp_path / "head", 0.0))
        assert refusal(hub.NAME) == (
            f"speculative_config names the Hub repository {hub.NAME}, which holds no judge.json: "
            "give a head's repository that holds one, a JSON file, or JSON text."
        )


def test_a_repository_that_cannot_be_read_is_refused(cached):
    assert refusal("someone/else").startswith(
        "speculative_config names someone/else, which is no file or folder, and as a Hub repository its judge.json "
        "cannot be read: "
    )


@pytest.mark.parametrize(
    "source", ["judge", "./tiny/judge", "tiny/judge.json", "/tiny/judge", "a/b/c", "../judge", "x" * 5000]
)
def test_what_is_no_path_and_no_name_of_a_repository_is_refused_without_a_look_into_the_hub(source, monkeypatch):
    monkeypatch.setattr("vllm_judge.hub.download", None)
    assert refusal(source) == (
        f"speculative_config names {source}, which is no file or folder and cannot be a Hub repository (owner/name): "
        "give a head's folder or repository with a judge.json, a JSON file, or JSON text."
    )


def test_a_folder_that_is_copied_elsewhere_serves_from_there(tmp_path):
    first = deployment(tmp_path / "first")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    _, section = read_speculative_config(second)
    assert section is not None and section.model == str(second)
