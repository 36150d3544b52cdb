"""Files that strangers may have written, damaged in every way: what comes of them is what they say, or one sentence of
our own family of errors; never another exception, a traceback in a worker, a hang or gigabytes.

It would catch: a header or a file of gigabytes that is read whole, a message as long as the file or on several lines,
one that no terminal can print, a parser's own exception, and a key given twice that two readers read differently.
"""

import json
import math
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from vllm_judge import JudgeHead
from vllm_judge.config import read_speculative_config
from vllm_judge.errors import JudgeError
from vllm_judge.making.recipe_file import read_recipe, show

H = 4
HEAD = {"hidden_size": H, "use_evidence": True, "threshold": 0.5, "target_model": "a/b", "provenance": {"auc": 0.9}}
HEAD["scores"] = {"head": "0" * 16, "threshold": 0.5, "answers": 99, "shares": [0.05] * 20, "variance": 0.1}
WEIGHTS = {"weight": torch.ones(H), "bias": torch.zeros(()), "evidence": torch.ones(4)}
DEPLOYMENT = {"method": "ngram", "num_speculative_tokens": 4, "judge": {"model": ".", "threshold": 0.5}}
RECIPE = {
    "target": "a/b",
    "draft": "a/c",
    "questions": [{"source": "gsm8k", "limit": 5}],
    "answers": [{"by": "draft", "temperatures": [0.5]}],
    "labels": [{"by": "function", "function": "a:b"}],
    "engine": {"serve": {"max_model_len": 64}},
    "max_accuracy_drop": 1.0,
}
REAL = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MOST_BYTES, MOST_SECONDS = 64 * 2**20, 20


def outcome(read: Callable[[], Any]) -> str | None:
    """The sentence that refuses what is read; None where it is accepted."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        read()
        return None
    except JudgeError as error:
        sentence = str(error)
        assert len(sentence) < 2000 and len(sentence.splitlines()) == 1 and sentence.endswith("."), sentence[:500]
        assert sentence.encode()
        return sentence
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES and time.monotonic() - start < MOST_SECONDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(HEAD))
    (tmp_path / "judge.json").write_text(json.dumps(DEPLOYMENT))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))  # JSON is YAML, too
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    return tmp_path


def head(folder: Path) -> str | None:
    return outcome(lambda: JudgeHead.from_pretrained(folder))


def deployment(folder: Path) -> str | None:
    return outcome(lambda: read_speculative_config(folder))


def recipe(folder: Path) -> str | None:
    return outcome(lambda: show(read_recipe(folder / "recipe.yaml")))


class File(NamedTuple):
    """A kind of file: its name, what it holds, and what reads it."""

    name: str
    whole: dict[str, Any]
    read: Callable[[Path], str | None]


FILES = [
    File("config.json", HEAD, head),
    File("judge.json", DEPLOYMENT, deployment),
    File("recipe.yaml", RECIPE, recipe),
]
files = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12)
    | st.sampled_from([10**400, -(2**63), "\ud800", "a\nb", "x" * 5000, math.nan, math.inf]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
keys = st.sampled_from([*HEAD, *DEPLOYMENT, *RECIPE, "model", "revision", "threshold", "by", "source"]) | st.text(
    st.characters(), max_size=8
)
# The folder may be used again: every example writes what it reads.
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_what_is_whole_is_accepted(folder):
    assert all(file.read(folder) is None for file in FILES)


@files
@many
@given(changed=st.dictionaries(keys, values, max_size=3), inside=st.booleans())
def test_any_json_value_in_any_field_is_taken_or_refused(folder, file, changed, inside):
    if inside and file.name == "judge.json":
        changed = {"judge": {**DEPLOYMENT["judge"], **changed}}
    if inside and file.name == "recipe.yaml":
        changed = {"questions": [{"source": "a", **changed}], "answers": changed, "engine": {"serve": changed}}
    (folder / file.name).write_text(json.dumps({**file.whole, **changed}))
    file.read(folder)


@files
@many
@given(value=values)
def test_any_json_value_for_the_whole_file_is_taken_or_refused(folder, file, value):
    (folder / file.name).write_text(json.dumps(value))
    refused = file.read(folder)
    assert refused is not None or isinstance(value, dict)


@files
@many
@given(at=st.integers(0, 300), bytes=st.binary(max_size=6), cut=st.integers(0, 6))
def test_a_file_with_other_bytes_in_it_is_taken_or_refused(folder, file, at, bytes, cut):
    whole = json.dumps(file.whole).encode()
    (folder / file.name).write_bytes(whole[:at] + bytes + whole[at + cut :])
    file.read(folder)


@files
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"threshold": ' + "9" * 5000 + "}",
        '{"hidden_size": 4, "threshold": 0.1, "threshold": 0.9}',
        '{"judge": {"model": "a", "model": "b"}}',
        "\ufeff{}",
        '{"a": "' + "x" * 2**21 + '"}',
    ],
    ids=["empty", "deep list", "deep object", "digits", "twice", "twice inside", "mark", "long"],
)
def test_hostile_json_is_refused(folder, file, text):
    (folder / file.name).write_text(text)
    assert file.read(folder)


@files
def test_a_key_that_is_there_twice_is_refused(folder, file):
    (folder / file.name).write_text('{"threshold": 0.1, "threshold": 0.9}')
    assert re.search("threshold'? is (there|given) twice", str(file.read(folder)))


@files
def test_a_file_of_gigabytes_is_not_read(folder, file):
    with (folder / file.name).open("wb") as long:
        long.truncate(2**34)  # takes no room on the disk
    assert "it is longer than 1048576 bytes" in str(file.read(folder))


YAML = {
    "a page of aliases that is gigabytes": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghij")),
    "a list that holds itself": "target: &a [*a]\n",
    "a map that holds itself": "target: &a {b: *a}\n",
    "a list as key": "? [a, b]\n: c\n",
    "a map as key": "{{}: a}\n",
    "an object of Python's": "target: !!python/name:os.system\n",
    "a date": "max_tokens: 2026-13-45\n",
    "an empty number": "max_tokens: !!int ''\n",
    "a yes that is none": "max_tokens: !!bool maybe\n",
    "bytes": "target: !!binary aGVsbG8=\n",
    "two documents": "target: a\n---\ntarget: b\n",
    "a tab": "target:\n\t- a\n",
    "a path that no system has": json.dumps({**RECIPE, "target": "./" + "x" * 5000}),
    "a home of nobody": json.dumps({**RECIPE, "target": "~nobody-by-that-name/a"}),
    "a number without an end": json.dumps({**RECIPE, "max_accuracy_drop": math.inf}).replace("Infinity", ".inf"),
    "an escape sequence": json.dumps({**RECIPE, "\x1b[2J": 1}),
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_hostile_yaml_is_refused(folder, text):
    (folder / "recipe.yaml").write_text(text)
    refused = recipe(folder)
    assert refused and refused.isprintable()


pieces = st.sampled_from([*"&*!|>%@`#?:-[]{},'\"~ \nab1.", "!!", "<<: ", "\t", "---"])


@many
@given(text=st.lists(pieces).map("".join))
def test_any_yaml_is_taken_or_refused(folder, text):
    (folder / "recipe.yaml").write_text(f"target: a\ndraft: b\nquestions: c\nengine:\n  serve: {text}")
    recipe(folder)


def header(entries: Any, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


MALFORMED = {
    "nothing": b"",
    "half a length": b"\x01\0\0",
    "a length of nearly everything": struct.pack("<Q", 2**64 - 1),
    "a length of gigabytes": struct.pack("<Q", 2**33) + b"{}",
    "no header": struct.pack("<Q", 2) + b"[]",
    "an empty header": header({}),
    "no data": header({"weight": entry([H], [0, 16])}),
    "offsets that overlap": header({"weight": entry([H], [0, 16]), "bias": entry([], [0, 4])}, bytes(16)),
    "offsets backwards": header({"weight": entry([H], [16, 0])}, bytes(16)),
    "offsets beyond the file": header({"weight": entry([H], [0, 2**40])}, bytes(16)),
    "a shape of exabytes": header({"weight": entry([2**60], [0, 16])}, bytes(16)),
    "a shape that overflows": header({"weight": entry([2**40, 2**40], [0, 0])}),
    "a negative shape": header({"weight": entry([-4], [0, 16])}, bytes(16)),
    "an unknown type": header({"weight": entry([H], [0, 16], "F33")}, bytes(16)),
    "ten thousand tensors": header({f"weight{i}": entry([0], [0, 0]) for i in range(10_000)}),
    "a name that nobody can print": header({"\ud800\n": entry([0], [0, 0])}),
    "metadata that is no text": header({"__metadata__": {"a": 1}, "weight": entry([H], [0, 16])}, bytes(16)),
    "two by one name": struct.pack("<Q", 130) + b'{"weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    b'"weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(70) + bytes(16),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_weights_are_refused(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    assert head(folder)


@many
@given(at=st.integers(0, 400), bytes=st.binary(max_size=9), cut=st.integers(0, 9), end=st.integers(0, 400))
def test_weights_with_other_bytes_in_them_are_taken_or_refused(folder, at, bytes, cut, end):
    whole = save(WEIGHTS)
    (folder / "model.safetensors").write_bytes((whole[:at] + bytes + whole[at + cut :])[: len(whole) + 9 - end])
    head(folder)


@many
@given(
    changed=st.dictionaries(
        st.sampled_from([*WEIGHTS, "other"]),
        st.tuples(st.sampled_from([[], [1], [H], [0], [2, 2], [H, 1]]), st.sampled_from(["finite", "nan", "inf"]),
                  st.sampled_from([*REAL, torch.int8, torch.bool])),
        max_size=3,
    )
)  # fmt: skip
def test_weights_of_any_name_shape_type_and_value_are_taken_or_refused(folder, changed):
    number = {"finite": 1.0, "nan": math.nan, "inf": math.inf}
    made = {name: torch.ones(shape).mul(number[value]).to(dtype) for name, (shape, value, dtype) in changed.items()}
    save_file({**WEIGHTS, **made}, folder / "model.safetensors")
    fits = all(
        name in WEIGHTS and list(WEIGHTS[name].shape) == shape and dtype in REAL and value == "finite"
        for name, (shape, value, dtype) in changed.items()
    )
    assert (head(folder) is None) == fits


def test_a_folder_may_hold_anything_else_that_is_not_touched(folder):
    """A pickled model beside the head's files is no fall-back."""
    (folder / "pytorch_model.bin").write_bytes(MALFORMED["a pickle"])
    (folder / "model.safetensors").unlink()
    assert "holds no model.safetensors" in str(head(folder))
