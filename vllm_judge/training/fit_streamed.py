"""Solves logistic regressions with the hidden states on disk: L-BFGS, all problems together, one pass a step.

The objective is the sum of all problems' objectives. No two share a coefficient, so its minimum is every problem's own,
and a pass over the disk, which is what costs, serves a whole cross-validation. scikit-learn has nothing for this: its
exact solvers want the matrix, and its `partial_fit` is stochastic gradient descent, which reaches no such minimum.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import softplus

from vllm_judge.tokencourt.progress import bar
from vllm_judge.training import fit_in_memory
from vllm_judge.training.choices import Features
from vllm_judge.training.problems import Linear, Problem, columns, unwhitened, used_rows
from vllm_judge.training.table import TokenTable

MAX_PASSES = 200


def solve(table: TokenTable, problems: Sequence[Problem]) -> list[Linear]:
    """The solution of each problem.

    Those that read evidence alone, which is in memory, go to scikit-learn. Memory for the K others: one block, and some
    50 vectors of (H + 5) * K fp64.
    """
    small = [number for number, problem in enumerate(problems) if problem.features == Features.evidence]
    large = [number for number, problem in enumerate(problems) if problem.features != Features.evidence]
    solutions: dict[int, Linear] = {}
    for solver, numbers in ((fit_in_memory.solve, small), (_solve_together, large)):
        if numbers:
            solutions.update(zip(numbers, solver(table, [problems[number] for number in numbers]), strict=True))
    return [solutions[number] for number in range(len(problems))]


def _solve_together(table: TokenTable, problems: Sequence[Problem]) -> list[Linear]:
    used = torch.from_numpy(used_rows(problems))
    scaler = _scaler(table, used)
    mean, scale = (torch.from_numpy(values).float() for values in (scaler.mean_, scaler.scale_))
    # [N] arrays, of which problems share many, are stacked a block at a time.
    token_weights = [torch.from_numpy(problem.weights) for problem in problems]
    totals = torch.tensor([float(problem.weights.sum(dtype=np.float64)) for problem in problems], dtype=torch.float64)
    strengths = torch.tensor([problem.strength for problem in problems], dtype=torch.float64)
    penalty = 1.0 / (strengths * totals)
    right = torch.from_numpy(table.right).float()

    open_columns = torch.zeros(len(mean) + 1, len(problems), dtype=torch.float64)
    for number, problem in enumerate(problems):
        open_columns[columns(problem.features, table.hidden_size), number] = 1.0
    open_columns[-1] = 1.0
    coefficients = torch.zeros_like(open_columns, requires_grad=True)  # the last row holds the intercepts

    def objective(advance: Callable[[], None]) -> torch.Tensor:
        current = coefficients.detach()
        gradient = torch.zeros_like(current)
        loss = torch.zeros(len(problems), dtype=torch.float64)
        slopes, intercepts = current[:-1].float(), current[-1].float()
        for rows, features in table.blocks():
            chosen = used[rows]
            whitened = (features[chosen] - mean) / scale
            label = right[rows][chosen].unsqueeze(1)
            weights = torch.stack([weight[rows][chosen] for weight in token_weights], dim=1)
            scores = whitened @ slopes + intercepts
            loss += (weights * softplus((1.0 - 2.0 * label) * scores)).sum(dim=0, dtype=torch.float64)
            residual = weights * (scores.sigmoid() - label)
            gradient[:-1] += whitened.T @ residual
            gradient[-1] += residual.sum(dim=0)
        gradient /= totals
        gradient[:-1] += penalty * current[:-1]
        coefficients.grad = gradient * open_columns
        advance()
        return (loss / totals + penalty * current[:-1].square().sum(dim=0) / 2).sum()

    optimizer = torch.optim.LBFGS(
        [coefficients],
        max_iter=MAX_PASSES,
        max_eval=MAX_PASSES,
        tolerance_grad=fit_in_memory.GRADIENT_TOLERANCE,
        tolerance_change=1e-7,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    with bar("passes over the hidden states, at most", MAX_PASSES) as advance:
        optimizer.step(lambda: objective(advance))
    found = coefficients.detach().numpy()
    return [unwhitened(found[:-1, number], found[-1, number], scaler) for number in range(len(problems))]


def _scaler(table: TokenTable, used: torch.Tensor) -> StandardScaler:
    scaler = StandardScaler()
    for rows, features in table.blocks():
        chosen = features[used[rows]]
        if len(chosen):
            scaler.partial_fit(chosen.numpy())
    return scaler
