"""Solves logistic regressions with the hidden states block by block: L-BFGS, all problems together, one pass a step.

The objective is the sum of all problems' objectives. No two share a coefficient, so its minimum is every problem's own,
and a pass over the hidden states, which is what costs, serves a whole cross-validation. scikit-learn has nothing for
this: its exact solvers want the matrix, one problem at a time, and its `partial_fit` is stochastic gradient descent,
which reaches no such minimum.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import softplus

from vllm_judge.progress import bar
from vllm_judge.training import fit_in_memory
from vllm_judge.training.choices import Features
from vllm_judge.training.conditioning import Coordinates, survey
from vllm_judge.training.problems import Linear, Problem, columns, unwhitened, used_rows
from vllm_judge.training.table import TokenTable

MAX_PASSES = 200
# Of a mean loss, in coordinates of curvature 1: what is left to gain is about half its square a coordinate.
GRADIENT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-7  # nats, all problems' together, from one pass to the next


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
    scaler, sample = survey(table, used)
    objective = _Objective(table, problems, used, torch.from_numpy(scaler.mean_), torch.from_numpy(scaler.scale_))
    coordinates = Coordinates.of(sample, objective.penalties)

    def from_coordinates(point: torch.Tensor) -> torch.Tensor:
        return objective.open_columns * torch.cat([coordinates(point[:-1]), point[-1:]])

    point = torch.zeros_like(objective.open_columns, requires_grad=True)
    passes = 0

    def closure() -> torch.Tensor:
        nonlocal passes
        passes += 1
        loss, gradient = objective(from_coordinates(point.detach()))
        gradient = objective.open_columns * gradient
        point.grad = torch.cat([coordinates(gradient[:-1]), gradient[-1:]])
        advance()
        return loss.sum()

    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=MAX_PASSES,
        max_eval=MAX_PASSES,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=LOSS_TOLERANCE,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    with bar("passes over the hidden states, at most", MAX_PASSES) as advance:
        optimizer.step(closure)
    converged = passes < MAX_PASSES
    found = from_coordinates(point.detach()).numpy()
    return [unwhitened(found[:-1, number], found[-1, number], scaler, converged) for number in range(len(problems))]


class _Objective:
    """The K problems' objectives at coefficients of whitened features, [H + 5, K] fp64, intercepts in the last row.

    Attributes:
        penalties: [K] fp64, factor of half the squared coefficients.
        open_columns: [H + 5, K] fp64, 1 where a problem may have a coefficient, else 0.
    """

    def __init__(
        self,
        table: TokenTable,
        problems: Sequence[Problem],
        used: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
    ):
        """`used` [N] bool: rows that any problem uses; `mean`, `scale` [H + 4] fp64 of the features there."""
        self._table, self._used, self._mean, self._scale = table, used, mean.float(), scale.unsqueeze(1)
        self._right = torch.from_numpy(table.right)
        # [N] arrays, of which problems share many, are stacked a block at a time.
        self._weights = [torch.from_numpy(problem.weights) for problem in problems]
        totals = [float(problem.weights.sum(dtype=np.float64)) for problem in problems]
        self._totals = torch.tensor(totals, dtype=torch.float64)
        strengths = torch.tensor([problem.strength for problem in problems], dtype=torch.float64)
        self.penalties = 1.0 / (strengths * self._totals)
        self.open_columns = torch.zeros(len(mean) + 1, len(problems), dtype=torch.float64)
        for number, problem in enumerate(problems):
            self.open_columns[columns(problem.features, table.hidden_size), number] = 1.0
        self.open_columns[-1] = 1.0

    def __call__(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [K] and gradient [H + 5, K], both fp64; one pass."""
        loss = torch.zeros_like(self._totals)
        gradient = torch.zeros_like(coefficients)
        # Whitening K vectors is cheaper than whitening the features; they are centred, for the digits' sake.
        slopes, intercepts = (coefficients[:-1] / self._scale).float(), coefficients[-1].float()
        for rows, features in self._table.blocks():
            chosen = self._used[rows]
            centred = (features if chosen.all() else features[chosen]) - self._mean
            sign = 1.0 - 2.0 * self._right[rows][chosen].float().unsqueeze(1)
            weights = torch.stack([weight[rows][chosen] for weight in self._weights], dim=1)
            margin = sign * torch.addmm(intercepts, centred, slopes)
            loss += (weights * softplus(margin)).sum(dim=0, dtype=torch.float64)
            residual = weights * sign * margin.sigmoid()
            gradient[:-1] += centred.T @ residual
            gradient[-1] += residual.sum(dim=0)
        gradient[:-1] /= self._scale
        gradient /= self._totals
        gradient[:-1] += self.penalties * coefficients[:-1]
        return loss / self._totals + self.penalties * coefficients[:-1].square().sum(dim=0) / 2, gradient
