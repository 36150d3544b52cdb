"""The judge heads of SelfJudge (arXiv 2510.02329) and AutoJudge (2504.20039), as heads of ours.

Theirs are a StandardScaler and a LogisticRegression of scikit-learn's on the target's hidden state at the draft token's
own row, after the final norm; class 1 is a token that matters, and a token whose probability of that is below a
threshold is accepted. With z = (h - mean) / scale and p = sigmoid(coef . z + intercept), p < t is

    -(coef / scale) . h - (intercept - (coef / scale) . mean) > logit(1 - t)

which is a head's own form.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vllm_judge.errors import HeadError, JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.training.card import head_card
from vllm_judge.training.hidden_states import load_target
from vllm_judge.training.inert_pickle import Noted, array, read

METHOD = (
    "Imported from `{file}` (SHA-256 {digest}), a StandardScaler and a LogisticRegression of scikit-learn {version} as "
    "SelfJudge and AutoJudge publish them; it accepts what they accept at a threshold of {threshold:g}. Nothing was "
    "fitted or measured here."
)


def import_selfjudge(file: Path, target: str, threshold: float, folder: Path) -> JudgeHead:
    """Writes the head's folder: config.json, model.safetensors, README.md.

    Args:
        file: their pickle: a dict, list, tuple or Pipeline that holds the two. No code of it is run.
        target: folder or Hub repository of the model whose hidden states they were fitted on.
        threshold: theirs, a probability that a token matters, below which it is accepted.
        folder: made where there is none.

    Returns:
        The head as it was written.

    Raises:
        HeadError: the file is not such a pickle, or its head does not fit the target.
        JudgeError: the target's configuration cannot be read, or the folder cannot be written.
    """
    content = read(file)
    try:
        recommended = _their_thresholds(content)
        scaler, regression = (_the_one(content, name) for name in ("StandardScaler", "LogisticRegression"))
        weight, bias = _folded(scaler, regression)
    except HeadError as error:
        raise HeadError(f"{file} was not imported: {error}") from None
    config, _ = load_target(target)
    hidden_size = config.get_text_config().hidden_size
    if len(weight) != hidden_size:
        raise HeadError(
            f"{file} reads {len(weight)} numbers a token, and the hidden size of {target} is {hidden_size}: a head can "
            "read its own target's hidden state only, without the draft's beside it."
        )
    version = regression.get("_sklearn_version")
    if not (isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version)):
        version = "of unknown version"
    method = METHOD.format(
        file=file.name,
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        version=version,
        threshold=threshold,
    )
    head = JudgeHead(
        hidden_size,
        threshold=1.0 - threshold,
        target_model=target,
        target_revision=getattr(config, "_commit_hash", None),
        provenance={"method": method, "their_thresholds": recommended},
    ).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.fill_(bias)
    if not (head.weight.isfinite().all() and head.bias.isfinite()):
        raise HeadError(f"{file} was not imported: its weights are not finite in fp32.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(head_card(head), encoding="utf-8")
        head.save_pretrained(folder)
    except OSError as error:
        raise JudgeError(f"the head cannot be written to {folder}: {error.strerror}.") from None
    return head.eval()


def _their_thresholds(content: Any) -> dict[str, float]:
    """What such a file recommends, by the names it has for them, such as youden_threshold."""
    found = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if re.fullmatch(r"\w{0,40}threshold", name) and isinstance(value, Noted) and value.name == "scalar":
            found[name] = float(array(value))
    return {name: value for name, value in found.items() if 0.0 <= value <= 1.0}


def _the_one(content: Any, name: str) -> dict[str, Any]:
    """The state of the one estimator of that name."""
    found: list[dict[str, Any]] = []
    seen, waiting = set(), [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Noted) and isinstance(value.state, dict):
            if value.name == name:
                found.append(value.state)
            elif value.name == "Pipeline":
                waiting.append(value.state.get("steps"))
    if len(found) != 1:
        raise HeadError(f"it holds {len(found)} fitted estimators of class {name}, where a head is made of one.")
    return found[0]


def _folded(scaler: dict[str, Any], regression: dict[str, Any]) -> tuple[np.ndarray, float]:
    """weight [H] and bias of the head that accepts what these two do not take for important; float64."""
    if regression.get("multi_class") == "multinomial":
        raise HeadError("its regression is a multinomial one, whose probabilities are others.")
    classes, coef, intercept = (_attribute(regression, name) for name in ("classes_", "coef_", "intercept_"))
    if classes.tolist() != [0, 1]:
        raise HeadError(f"its classes are {classes.ravel()[:10].tolist()}, and a head's are 0 and 1.")
    size = coef.size
    mean = _attribute(scaler, "mean_") if scaler.get("with_mean") else np.zeros(size)
    scale = _attribute(scaler, "scale_") if scaler.get("with_std") else np.ones(size)
    if coef.shape != (1, size) or mean.shape != (size,) or scale.shape != (size,) or intercept.shape != (1,):
        raise HeadError(
            f"the shapes of coef_, intercept_, mean_ and scale_ do not belong together: "
            f"{coef.shape}, {intercept.shape}, {mean.shape}, {scale.shape}."
        )
    with np.errstate(all="ignore"):  # what comes of it is checked
        weight = -coef[0] / scale
        return weight, float(-(intercept[0] + weight @ mean))


def _attribute(state: dict[str, Any], name: str) -> np.ndarray:
    if name not in state:
        raise HeadError(f"its estimators lack {name}: they were not fitted.")
    return array(state[name])
