"""Heads of SelfJudge and AutoJudge from their pickles: the same decisions, and nothing in a pickle that is ever run.

It would catch: a sign, a scale or a threshold that is turned round, a name that is imported, memory taken because a
file says so, a traceback.
"""

import os
import pickle
import pickletools
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from vllm_judge import HeadError, JudgeHead
from vllm_judge.cli import app
from vllm_judge.head import logit
from vllm_judge.training import inert_pickle
from vllm_judge.training.import_selfjudge import import_selfjudge

N, H = 400, tiny.HIDDEN


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.make_target(tmp_path_factory.mktemp("models") / "target"))


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(N, H)) * generator.uniform(0.1, 9, H) + generator.normal(size=H)).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(states: np.ndarray) -> dict[str, Any]:
    """As SelfJudge's notebook writes it."""
    important = (states[:, 0] + states[:, 1] + np.random.default_rng(1).normal(size=N) > 0).astype(int)
    scaler = StandardScaler().fit(states)
    model = LogisticRegression(C=0.1).fit(scaler.transform(states), important)
    return {"model": model, "scaler": scaler, "youden_threshold": np.float64(0.379), "min_recall_threshold": 0.274}


def imported(content: Any, target: str, folder: Path, threshold: float = 0.5) -> JudgeHead:
    (folder / "head.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    import_selfjudge(folder / "head.pkl", target, threshold, folder / "head")
    return JudgeHead.from_pretrained(folder / "head")


def with_old_names(content: bytes) -> bytes:
    """As numpy 1 wrote it; frames and lengths of names are put right."""
    for module in ("multiarray", "numeric"):
        new, old = f"numpy._core.{module}".encode(), f"numpy.core.{module}".encode()
        content = content.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(new, old)
    return pickletools.optimize(content)


WRITTEN = {
    **{f"protocol {protocol}": lambda content, p=protocol: pickle.dumps(content, p) for protocol in (2, 3, 4, 5)},
    **{
        f"protocol {protocol}, numpy 1": lambda content, p=protocol: with_old_names(pickle.dumps(content, p))
        for protocol in (2, 3, 4, 5)
    },
    "optimised": lambda content: pickletools.optimize(pickle.dumps(content)),
    "tuple": lambda content: pickle.dumps((content["scaler"], content["model"])),
    "pipeline": lambda content: pickle.dumps(Pipeline([("s", content["scaler"]), ("m", content["model"])])),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_an_imported_head_decides_as_scikit_learn_does(theirs, states, target, tmp_path, write, threshold):
    head = imported(write(theirs), target, tmp_path, threshold)
    probability = theirs["model"].predict_proba(theirs["scaler"].transform(states))[:, 1]
    score = head.score(torch.from_numpy(states))
    assert torch.sigmoid(-score).numpy() == pytest.approx(probability, abs=1e-5)
    decided = np.abs(probability - threshold) > 1e-5
    accepted = (score > logit(head.threshold)).numpy()
    assert (accepted == (probability < threshold))[decided].all() and 0 < accepted.sum() < N


@pytest.mark.parametrize("options", [{"with_mean": False}, {"with_std": False}])
def test_a_scaler_that_does_half_is_folded_as_it_is(states, target, tmp_path, options):
    important = (states[:, 0] > 0).astype(int)
    scaler = StandardScaler(**options).fit(states)
    model = LogisticRegression(fit_intercept=False).fit(scaler.transform(states), important)
    head = imported({"scaler": scaler, "model": model}, target, tmp_path)
    probability = model.predict_proba(scaler.transform(states))[:, 1]
    assert torch.sigmoid(-head.score(torch.from_numpy(states))).numpy() == pytest.approx(probability, abs=1e-5)


def test_the_command_says_what_it_made_and_what_the_file_recommends(theirs, target, tmp_path):
    (tmp_path / "their.pkl").write_bytes(pickle.dumps(theirs))
    command = ["head", "import", "selfjudge", str(tmp_path / "their.pkl"), "--target", target]
    done = CliRunner().invoke(app, [*command, "--threshold", "0.379", "-o", str(tmp_path / "target-judge")])
    assert (done.exit_code, done.output) == (
        0,
        f"{tmp_path}/target-judge: a head that reads {H} numbers, default threshold 0.621.\n"
        "  the file's youden_threshold is 0.379: --threshold 0.379 takes it.\n",
    )
    head = JudgeHead.from_pretrained(tmp_path / "target-judge")
    assert head.target_model == target and "Imported from `their.pkl` (SHA-256 " in head.provenance["method"]
    assert "Imported from `their.pkl`" in (tmp_path / "target-judge" / "README.md").read_text()


def refusal(content: Any, target: str, folder: Path) -> str:
    with pytest.raises(HeadError) as caught:
        imported(content, target, folder)
    sentence = str(caught.value)
    assert sentence.startswith(str(folder / "head.pkl")) and sentence.endswith(".") and "\n" not in sentence
    assert not (folder / "head").exists()
    return sentence.removeprefix(f"{folder / 'head.pkl'} ")


def fitted(states: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    scaler = StandardScaler().fit(states)
    return {"scaler": scaler, "model": LogisticRegression().fit(scaler.transform(states), classes)}


def test_heads_of_another_kind_are_refused(states, theirs, target, tmp_path):
    both = np.concatenate([states, states], axis=1)
    assert refusal(fitted(both, states[:, 0] > 0), target, tmp_path) == (
        f"reads {2 * H} numbers a token, and the hidden size of {target} is {H}: a head can read its own target's "
        "hidden state only, without the draft's beside it."
    )
    classes = np.digitize(states[:, 0], [-1, 1])
    assert "its classes are [0.0, 1.0, 2.0], and a head's are 0 and 1." in refusal(
        fitted(states, classes), target, tmp_path
    )
    theirs["model"].multi_class = "multinomial"  # as scikit-learn had it before 1.8
    assert "its regression is a multinomial one" in refusal(theirs, target, tmp_path)
    del theirs["model"].multi_class
    assert "it holds 0 fitted estimators of class StandardScaler" in refusal(theirs["model"], target, tmp_path)
    assert "it holds 2 fitted" in refusal([fitted(states, classes), fitted(states, classes)], target, tmp_path)
    assert "they were not fitted" in refusal(
        fitted(states, classes) | {"model": LogisticRegression(C=2)}, target, tmp_path
    )


class Runs:
    """Unpickled as usual, it makes a file."""

    def __init__(self, call: Any, *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


MADE = "made-by-a-pickle"


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / MADE).exists()


def text(value: str) -> bytes:
    """A short string of a pickle's."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def called(module: str, name: str, argument: str) -> bytes:
    return named(module, name) + text(argument) + b"\x85R"


MAKE = f"open({MADE!r}, 'w')"
HOSTILE = {
    "os.system": pickle.dumps(Runs(os.system, f"touch {MADE}")),
    "eval": pickle.dumps(Runs(eval, MAKE)),
    "eval, protocol 2": pickle.dumps(Runs(eval, MAKE), protocol=2),
    "nested": pickle.dumps({"model": [{"a": (Runs(exec, MAKE),)}]}),
    "as a key": b"\x80\x04}" + called("builtins", "eval", MAKE) + b"K\x01s.",
    "through the memo": b"\x80\x04"
    + (text("os") + b"\x94" + text("system") + b"\x94h\x00h\x01\x93" + text(f"touch {MADE}") + b"\x85R."),
    "by an attribute of a known module": b"\x80\x04" + called("numpy", "load", MADE) + b".",
    "by a dotted name": b"\x80\x04" + called("numpy", "dtype.__class__.__call__", MADE) + b".",
    "numpy's own eval": b"\x80\x04" + called("numpy.testing._private.utils", "runstring", MAKE) + b".",
    "old style": b"(S'touch " + MADE.encode() + b"'\nios\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01)R.",
    "persistent id": b"\x80\x04Pabc\n.",
    "calls what it was given": b"\x80\x04" + called("numpy", "dtype", "f8") + text("x") + b"\x85R.",
    "__setstate__ of a name": b"\x80\x04"
    + (named("numpy", "ndarray") + b"}" + text("__setstate__") + named("numpy", "dtype") + b"sb."),
    "state of a dict": b"\x80\x04}}" + text("__setstate__") + b"Nsb.",
    "keyword arguments": b"\x80\x04" + named("numpy", "ndarray") + b")}\x92.",
    "torch": pickle.dumps(torch.nn.Linear(2, 2)),
    "joblib": b"\x80\x04" + named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_would_run_something_is_refused_unrun(content, target, tmp_path):
    refusal(content, target, tmp_path)


def test_a_name_that_is_refused_is_said(target, tmp_path):
    assert refusal(HOSTILE["eval"], target, tmp_path) == (
        "was not imported: it names 'builtins.eval', and only arrays, StandardScaler and LogisticRegression are known."
    )


def array(shape: tuple[int, ...], data: bytes, dtype: str = "f8") -> Any:
    """What a pickle says of an array, without making it."""

    class Says:
        def __reduce__(self) -> Any:
            return np._core.numeric._frombuffer, (data, np.dtype(dtype), shape, "C")  # type: ignore[attr-defined]

    return Says()


def with_coef(theirs: dict[str, Any], coef: Any) -> dict[str, Any]:
    model = LogisticRegression()
    model.__dict__ |= theirs["model"].__dict__ | {"coef_": coef}
    return {**theirs, "model": model}


GREEDY = {
    "a memo at a place far away": b"\x80\x04N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "text": b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "a whole number": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "digits": b"\x80\x04I" + b"9" * 100_000 + b"\n.",
    "tuples in tuples": b"\x80\x04N" + b"\x85" * 500_000 + b".",
    "itself": b"\x80\x04]\x94h\x00a.",
    "marks": b"\x80\x04" + b"(" * 500_000 + b".",
}


@pytest.mark.parametrize("content", GREEDY.values(), ids=GREEDY)
def test_a_pickle_that_asks_for_much_is_refused_without_giving_it(content, target, tmp_path):
    tracemalloc.start()
    try:
        refusal(content, target, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("coef", "sentence"),
    [
        (array((1, 10**12), b"x" * 8), "it holds an array of shape (1, 1000000000000) with 1 numbers."),
        (array((10**12, 0), b""), "the shapes of coef_, intercept_, mean_ and scale_ do not belong together"),
        (array((0, 10**30), b""), "it holds a damaged array: "),
        (array((1, H), b"x" * (8 * H - 1)), "it holds a damaged array: buffer size must be a multiple"),
        (array((-1, H), b"x" * 8 * H), "it holds an array of shape (-1, 64) with 64 numbers."),
        (array((1,) * 100_000, b"x" * 8), "it holds an array of 100000 dimensions."),
        (array((1, H), b"x" * 8 * H, "M8[ns]"), "it holds an array of something else than numbers."),
        (np.full((1, H), np.inf), "its weights are not finite in fp32."),
        (np.array([[None] * H]), "it holds an array without bytes."),
        (np.float64(1.0), "do not belong together: (), (1,)"),
        ([0.0] * H, "it holds something else where an array belongs."),
        (10**400, "it holds something else where an array belongs."),
    ],
    ids=[
        "shape",
        "matrix",
        "wide",
        "short",
        "negative",
        "many",
        "dates",
        "infinite",
        "objects",
        "scalar",
        "list",
        "number",
    ],
)
def test_an_array_that_is_none_is_refused(theirs, target, tmp_path, coef, sentence):
    assert sentence in refusal(with_coef(theirs, coef), target, tmp_path)


def test_a_file_that_ends_too_early_is_refused_wherever(theirs, tmp_path):
    whole = pickle.dumps(theirs)
    path = tmp_path / "head.pkl"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(HeadError):
            inert_pickle.read(path)


@given(st.data())
def test_whatever_bytes_say_the_answer_is_a_sentence(target, tmp_path_factory, data):
    whole = bytearray(pickle.dumps(fitted(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])), protocol=4))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "head.pkl"
    path.write_bytes(whole)
    with pytest.raises(HeadError, match=r"\.$"):
        import_selfjudge(path, target, 0.5, path.parent / "head")


def test_a_file_that_is_not_there_or_too_large_is_refused(target, tmp_path, monkeypatch):
    with pytest.raises(HeadError, match="cannot be read: No such file or directory"):
        import_selfjudge(tmp_path / "nothing", target, 0.5, tmp_path / "head")
    monkeypatch.setattr(inert_pickle, "MAX_BYTES", 1 << 20)
    assert "is larger than 1 MiB" in refusal(b"x" * (1 << 21), target, tmp_path)
