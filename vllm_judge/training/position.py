"""What a token's position in its answer alone tells of its label, and how to take that away.

Mistakes come late. A head can learn that instead of truth, since a hidden state knows where it stands; such a head
looks well on paper and accepts every early mistake.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from vllm_judge.errors import JudgeError
from vllm_judge.training.table import TokenTable

BINS = 10


def position_score(table: TokenTable) -> np.ndarray:
    """[N] log-odds of a baseline that knows only how many tokens of the answer come before, fitted on the train split.

    A spline, so that it may rise and fall. It does not know the answer's length: neither does a head, when it judges.
    """
    place = np.log1p(table.position.astype(np.float64))[:, None]
    baseline = make_pipeline(
        SplineTransformer(n_knots=6, extrapolation="constant"), LogisticRegression(class_weight="balanced")
    )
    train = ~table.held_out
    baseline.fit(place[train], table.right[train])
    return baseline.decision_function(place)


def label_balanced(right: np.ndarray) -> np.ndarray:
    """[N] fp32 weights with mean 1 under which both labels weigh the same."""
    return _normalised(np.where(right, 1.0 / max(1, right.sum()), 1.0 / max(1, (~right).sum())))


def position_balanced(right: np.ndarray, position: np.ndarray) -> np.ndarray:
    """[N] fp32 weights with mean 1 under which position tells nothing: both labels weigh the same at every position.

    Positions are taken in ten ranges that hold about as many mistakes each. A range with one label only weighs
    nothing: there is nothing to compare in it.

    Raises:
        JudgeError: there is no range with both labels.
    """
    edges = np.unique(np.quantile(position[~right], np.linspace(0, 1, BINS + 1)[1:-1]))
    group = np.searchsorted(edges, position, side="right")
    size = np.bincount(group, minlength=len(edges) + 1)
    rights = np.bincount(group, weights=right, minlength=len(edges) + 1)
    wrongs = size - rights
    both = (rights > 0) & (wrongs > 0)
    if not both.any():
        raise JudgeError("right tokens and mistakes share no position in their answers: positions cannot be balanced.")
    weight_right = np.where(both, size / np.maximum(rights, 1), 0.0)
    weight_wrong = np.where(both, size / np.maximum(wrongs, 1), 0.0)
    return _normalised(np.where(right, weight_right[group], weight_wrong[group]))


def _normalised(weights: np.ndarray) -> np.ndarray:
    return (weights / weights.mean()).astype(np.float32)
