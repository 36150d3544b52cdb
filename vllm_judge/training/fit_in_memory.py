"""Solves logistic regressions with scikit-learn, all features in memory."""

from collections.abc import Sequence
from dataclasses import replace
from warnings import catch_warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vllm_judge.progress import bar
from vllm_judge.training.choices import Features
from vllm_judge.training.problems import Linear, Problem, columns, unwhitened, used_rows
from vllm_judge.training.table import TokenTable

MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-5  # of a mean loss


def solve(table: TokenTable, problems: Sequence[Problem]) -> list[Linear]:
    """The solution of each problem. Needs 12 * N * (H + 4) bytes or so, next to none if all read evidence alone."""
    used = used_rows(problems)
    hidden_size = 0 if all(problem.features == Features.evidence for problem in problems) else table.hidden_size
    scaler = StandardScaler(copy=False)
    whitened = scaler.fit_transform(_features(table, used) if hidden_size else table.evidence[used])
    solutions = []
    with bar("fits", len(problems)) as advance:
        for problem in problems:
            weights = problem.weights[used]
            fitted, read = weights > 0, columns(problem.features, hidden_size)
            regression = LogisticRegression(C=problem.strength, tol=GRADIENT_TOLERANCE, max_iter=MAX_ITERATIONS)
            with catch_warnings(action="ignore", category=ConvergenceWarning):  # said where it matters: of the head
                regression.fit(whitened[fitted, read], table.right[used][fitted], sample_weight=weights[fitted])
            coefficients = np.zeros(whitened.shape[1])
            coefficients[read] = regression.coef_[0]
            converged = regression.n_iter_[0] < MAX_ITERATIONS
            solution = unwhitened(coefficients, regression.intercept_[0], scaler, converged)
            unread = np.zeros(table.hidden_size - hidden_size)
            solutions.append(replace(solution, weights=np.concatenate([unread, solution.weights])))
            advance()
    return solutions


def _features(table: TokenTable, used: np.ndarray) -> np.ndarray:
    return np.concatenate([block[torch.from_numpy(used[rows])].numpy() for rows, block in table.blocks()])
