"""A judge head from disk or from the Hub: what is right loads as it was saved, and nothing else loads at all."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hub import Hub
from safetensors.torch import save_file

from vllm_judge import HeadError, JudgeHead

H = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = JudgeHead(H, use_evidence=True, threshold=0.25, target_model="a/b", provenance={"auc": 0.9})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    head.save_pretrained(tmp_path / "head")
    return tmp_path / "head"


def test_a_saved_head_comes_back_with_its_weights_and_fields_and_knows_whence(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    head = JudgeHead.from_pretrained("head")
    assert (head.hidden_size, head.threshold, head.target_model, head.provenance) == (H, 0.25, "a/b", {"auc": 0.9})
    assert (head.source, head.commit) == (str(folder), None)
    again = JudgeHead.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_real_types_become_fp32(folder, dtype):
    values = torch.tensor([0.5, -1.5, 2.0, 0.0, 8.0, -0.25, 1.0, 3.0], dtype=dtype)
    save_weights(folder, weight=values)
    weight = JudgeHead.from_pretrained(folder).weight
    assert weight.dtype == torch.float32 and torch.equal(weight, values.float())


def save_weights(folder: Path, **changed: torch.Tensor) -> None:
    weights = {"weight": torch.zeros(H), "bias": torch.zeros(()), "evidence": torch.zeros(4)}
    save_file({**weights, **changed}, folder / "model.safetensors")


def refusal(source: Any) -> str:
    with pytest.raises(HeadError) as caught:
        JudgeHead.from_pretrained(source)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 1000
    return sentence


FIELDS = "hidden_size, use_evidence, threshold, target_model, target_revision, hidden_states, provenance, scores"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hidden_size": True}, "hidden_size of {head} must be a whole number from 1 to 1048576, found True."),
        ({"hidden_size": 10**15}, f"hidden_size of {{head}} must be a whole number from 1 to 1048576, found {10**15}."),
        ({"hidden_size": 8.0}, "hidden_size of {head} must be a whole number from 1 to 1048576, found 8.0."),
        ({"hidden_size": 0}, "hidden_size of {head} must be a whole number from 1 to 1048576, found 0."),
        ({"use_evidence": "false"}, "use_evidence of {head} must be true or false, found 'false'."),
        ({"use_evidence": 1}, "use_evidence of {head} must be true or false, found 1."),
        ({"threshold": "0.5"}, "threshold of {head} must be a number from 0 to 1, found '0.5'."),
        ({"threshold": True}, "threshold of {head} must be a number from 0 to 1, found True."),
        ({"threshold": math.nan}, "threshold of {head} must be a number from 0 to 1, found nan."),
        ({"threshold": 1.5}, "threshold of {head} must be a number from 0 to 1, found 1.5."),
        ({"target_model": 7}, "target_model of {head} must be text or null, found 7."),
        ({"provenance": []}, "provenance of {head} must be an object or null, found []."),
        (
            {"hidden_states": "before the norm"},
            "hidden_states of {head} must be 'own row, input of the output layer' "
            "(fit the head again with this version's hidden states), found 'before the norm'.",
        ),
        ({"treshold": 0.5}, f"'treshold' of {{head}} is unknown: the fields of a head are {FIELDS}."),
    ],
)
def test_a_field_of_another_type_or_range_is_refused(folder, fields, sentence):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    assert refusal(folder) == sentence.replace("{head}", f"the judge head in {folder}")


def test_fields_are_checked_where_a_head_is_made_too():
    with pytest.raises(HeadError, match="hidden_size of a judge head must be a whole number from 1 to 1048576"):
        JudgeHead(10**15)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "config.json of {head} is no JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[8]", "config.json of {head} must hold an object: [8]."),
        ("null", "config.json of {head} must hold an object: None."),
        ("{}", "hidden_size of {head} is missing: it must be a whole number from 1 to 1048576."),
        ('{"hidden_size": ' + "9" * 5000 + "}", "config.json of {head} is no JSON: Exceeds the limit (4300 digits)"),
        ('{"provenance": ' + '{"a":' * 10_000 + "1" + "}" * 10_001, "config.json of {head} is no JSON: maximum recurs"),
    ],
    ids=["empty", "list", "null", "nothing", "digits", "deep"],
)
def test_a_config_that_is_no_json_or_no_object_is_refused(folder, text, sentence):
    (folder / "config.json").write_text(text)
    assert refusal(folder).startswith(sentence.replace("{head}", f"the judge head in {folder}"))


def test_a_config_in_another_encoding_is_refused(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe{\x00}\x00")
    assert refusal(folder).startswith(f"config.json of the judge head in {folder} is no JSON: 'utf-8' codec")


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        (torch.zeros(H, dtype=torch.bool), "BOOL"),
        (torch.zeros(H, dtype=torch.complex64), "C64"),
        (torch.zeros(H, dtype=torch.float8_e4m3fn), "F8_E4M3"),
        (torch.zeros(H, dtype=torch.int64), "I64"),
    ],
)
def test_weights_that_are_no_real_numbers_are_refused(folder, weight, name):
    save_weights(folder, weight=weight)
    assert refusal(folder) == f"the judge head in {folder} holds weights of type {name}: save them as F32."


@pytest.mark.parametrize("value", [1e300, math.inf, math.nan])
def test_weights_that_fp32_cannot_hold_are_refused(folder, value):
    save_weights(folder, weight=torch.full((H,), value, dtype=torch.float64))
    assert refusal(folder) == f"the judge head in {folder} holds weights that are not finite in fp32."


def test_weights_of_another_name_or_shape_are_refused(folder):
    save_weights(folder, weight=torch.zeros(H + 1), other=torch.zeros(1))
    assert refusal(folder) == (
        f"the judge head in {folder} does not match its config.json: expected {{'bias': (), 'evidence': (4,), "
        "'weight': (8,)}, found {'bias': (), 'evidence': (4,), 'other': (1,), 'weight': (9,)}."
    )


def test_a_folder_that_lacks_a_file_or_holds_another_thing_by_its_name_is_refused(folder):
    (folder / "config.json").rename(folder / "kept.json")
    assert refusal(folder) == f"no judge head in {folder}: it holds no config.json."
    (folder / "kept.json").rename(folder / "config.json")
    (folder / "model.safetensors").write_bytes(b"not a tensor in sight")
    assert refusal(folder).startswith(f"the judge head in {folder} is damaged: model.safetensors: ")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert refusal(folder) == f"no judge head in {folder}: it holds no model.safetensors."


@pytest.mark.parametrize("source", ["x" * 5000, "x/" * 1000, "./nowhere", "a\0b", "\ud800", "", "a/b/c/d"])
def test_a_name_that_is_neither_folder_nor_repository_is_refused(source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "judge head" in refusal(source)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as hub:
        hub.serve_to(monkeypatch, cache=tmp_path / "cache")
        yield hub


def test_a_head_from_the_hub_names_its_commit_and_that_commit_loads_after_the_branch_moved_on(hub, tmp_path):
    hub.commit(tiny.make_head(tmp_path / "a", 1.0))
    head = JudgeHead.from_pretrained(hub.NAME)
    assert (head.source, head.commit, float(head.bias)) == (hub.NAME, hub.head, 1.0)
    hub.commit(tiny.make_head(tmp_path / "b", 2.0))
    assert float(JudgeHead.from_pretrained(hub.NAME).bias) == 2.0
    assert float(JudgeHead.from_pretrained(head.source, revision=head.commit).bias) == 1.0
    hub.commit(tmp_path / "nothing")
    assert refusal(hub.NAME).startswith(
        f"{hub.NAME!r} is neither a folder with a judge head nor a Hub repository that can be read: 404 Client Error"
    )
