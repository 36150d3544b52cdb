"""Coordinates in which logistic regressions on hidden states are easy: no direction weighs much more than another.

A few directions hold most of the variance of hidden states, and L-BFGS needs hundreds of passes where one direction
weighs a thousand times as much as another. So the largest are found on a sample of rows and scaled down: randomised
Nyström preconditioning (Frangella, Tropp, Udell, arXiv 2110.02820), with a truncated singular value decomposition.
"""

from dataclasses import dataclass

import torch
from sklearn.preprocessing import StandardScaler

from vllm_judge.training.table import TokenTable

ROWS = 4096  # of the sample
DIRECTIONS = 256
# The second derivative of the logistic loss is p (1 - p), 1/4 at most; for a fitted model about this much.
CURVATURE = 0.1


def survey(table: TokenTable, used: torch.Tensor) -> tuple[StandardScaler, torch.Tensor]:
    """Mean and scale of the used rows [N] bool, and an even sample of them, whitened [n, H + 4] fp32; one pass."""
    scaler = StandardScaler()
    every = max(1, int(used.sum()) // ROWS)
    sample = []
    for rows, features in table.blocks():
        chosen = features[used[rows]]
        if len(chosen):
            scaler.partial_fit(chosen.numpy())
            sample.append(chosen[::every].clone())
    mean, scale = (torch.from_numpy(values).float() for values in (scaler.mean_, scaler.scale_))
    return scaler, (torch.cat(sample) - mean) / scale


@dataclass(frozen=True)
class Coordinates:
    """For each of K problems a symmetric map [F, F] that makes its second derivative about the identity.

    Attributes:
        directions: [F, r] fp64, orthonormal.
        along: [r, K] fp64, factors along the directions.
        across: [K] fp64, factor of everything else.
    """

    directions: torch.Tensor
    along: torch.Tensor
    across: torch.Tensor

    @classmethod
    def of(cls, sample: torch.Tensor, penalties: torch.Tensor) -> "Coordinates":
        """From whitened rows [n, F] and the K penalties [K] fp64 on the mean squared coefficient."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, singular, directions = torch.svd_lowrank(sample, q=min(DIRECTIONS, *sample.shape))
        curvature = CURVATURE * singular.double().square() / len(sample)
        return cls(
            directions.double(),
            (curvature.unsqueeze(1) + penalties).rsqrt(),
            (curvature[-1] + penalties).rsqrt(),
        )

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """The map of each column of [F, K] fp64."""
        shares = self.directions.T @ vectors
        return self.across * vectors + self.directions @ ((self.along - self.across) * shares)
