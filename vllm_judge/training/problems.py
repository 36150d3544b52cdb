"""Logistic regressions to be solved on one table, and their solutions; how they are solved lies beside this file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from vllm_judge.head import EVIDENCE, JudgeHead
from vllm_judge.training.choices import Features
from vllm_judge.training.table import TokenTable


def columns(features: Features, hidden_size: int) -> slice:
    """Where features are among a table's columns [N, H + 4]."""
    return {
        Features.both: slice(0, hidden_size + len(EVIDENCE)),
        Features.hidden: slice(0, hidden_size),
        Features.evidence: slice(hidden_size, hidden_size + len(EVIDENCE)),
    }[features]


@dataclass(frozen=True)
class Problem:
    """An L2-regularised logistic regression: minimises C * sum_i weights_i * loss_i + |w|^2 / 2 on whitened features.

    Attributes:
        features: the columns that it may use.
        weights: [N] fp32, how much each token counts; 0 leaves it out.
        strength: C, the inverse of the regularisation.
    """

    features: Features
    weights: np.ndarray
    strength: float


@dataclass(frozen=True)
class Linear:
    """A solution on raw features: score = weights . features + bias.

    Attributes:
        weights: [H + 4] fp64, 0 for unused columns.
        bias: a number.
        converged: whether the solver came to the minimum; else it gave up on the way.
    """

    weights: np.ndarray
    bias: float
    converged: bool

    def head(self, features: Features, hidden_size: int) -> JudgeHead:
        """The same as a judge head, which has no evidence weights where `features` has no evidence."""
        head = JudgeHead(hidden_size, use_evidence=features != Features.hidden).requires_grad_(False)
        head.weight.copy_(torch.from_numpy(self.weights[:hidden_size]))
        head.bias.fill_(self.bias)
        if head.evidence is not None:
            head.evidence.copy_(torch.from_numpy(self.weights[hidden_size:]))
        return head.eval()


def used_rows(problems: Sequence[Problem]) -> np.ndarray:
    """[N] bool: the tokens that any of the problems uses; features are whitened over these."""
    return np.logical_or.reduce([problem.weights > 0 for problem in problems])


def unwhitened(coefficients: np.ndarray, intercept: float, scaler: StandardScaler, converged: bool) -> Linear:
    """A solution on whitened features [H + 4] with the scaler folded in, so that it reads raw features."""
    weights = coefficients / scaler.scale_
    return Linear(weights, float(intercept - weights @ scaler.mean_), converged)


def as_if_balanced(table: TokenTable, problem: Problem, solution: Linear) -> Linear:
    """A solution with the log-odds that it would have if both labels were as frequent as each other in the fit.

    So a threshold means the same whichever weighting cross-validation chose (prior correction: King and Zeng,
    "Logistic Regression in Rare Events Data", 2001, section 4.1).
    """
    rights = problem.weights[table.right].sum(dtype=np.float64)
    wrongs = problem.weights[~table.right].sum(dtype=np.float64)
    return replace(solution, bias=solution.bias - float(np.log(rights / wrongs)))


def score(table: TokenTable, solutions: Sequence[Linear]) -> np.ndarray:
    """[N, K] fp32 log-odds by each of K solutions, in one pass."""
    weights = torch.from_numpy(np.stack([one.weights for one in solutions], axis=1)).float()
    bias = torch.tensor([one.bias for one in solutions])
    scores = np.empty((len(table), len(solutions)), dtype=np.float32)
    for rows, features in table.blocks():
        scores[rows] = (features @ weights + bias).numpy()
    return scores
