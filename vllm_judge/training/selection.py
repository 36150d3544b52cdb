"""Which regularisation and which weighting: cross-validation over questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import expit
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from vllm_judge.errors import JudgeError
from vllm_judge.training.choices import Features
from vllm_judge.training.position import label_balanced, position_balanced
from vllm_judge.training.problems import Linear, Problem, as_if_balanced, score
from vllm_judge.training.table import TokenTable

Solver = Callable[[TokenTable, Sequence[Problem]], list[Linear]]
# Cross-validation sees so many bytes of features at most, in memory, and so many tokens: whole questions, at random.
SAMPLE_BYTES = 1 << 30
SAMPLE_TOKENS = 100_000
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
POSITIONS_BALANCED = "positions balanced"


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose for a set of features.

    Attributes:
        features: the set.
        weighting: every token the same, labels balanced, or positions balanced.
        strength: C.
        loss: in nats a token, mean over the folds' left-out questions, where both labels weigh the same (at every
            position, if positions are balanced): of the very probability that a threshold is compared with.
    """

    features: Features
    weighting: str
    strength: float
    loss: float


def some_questions(table: TokenTable, seed: int = 0) -> np.ndarray:
    """[N] bool: the tokens of training questions drawn at random, as many as the sample may have, at most all."""
    train = ~table.held_out
    capacity = min(SAMPLE_TOKENS, SAMPLE_BYTES // (4 * (table.hidden_size + table.evidence.shape[1])))
    if train.sum() <= capacity:
        return train
    sizes = np.bincount(table.question[train])
    order = np.random.default_rng(seed).permutation(np.flatnonzero(sizes))
    drawn = order[sizes[order].cumsum() <= capacity]
    return train & np.isin(table.question, drawn)


def weightings(table: TokenTable, balance_positions: bool) -> dict[str, np.ndarray]:
    """[N] fp32 candidates for the weights of tokens, 0 for held-out questions.

    Raises:
        JudgeError: positions cannot be balanced.
    """
    train = ~table.held_out
    right, position = table.right[train], table.position[train]
    if balance_positions:
        candidates = {POSITIONS_BALANCED: position_balanced(right, position)}
    else:
        candidates = {"labels balanced": label_balanced(right), "every token the same": np.ones(len(right))}
    placed = {}
    for name, weights in candidates.items():
        placed[name] = np.zeros(len(table), dtype=np.float32)
        placed[name][train] = weights
    return placed


def choose(
    table: TokenTable, solve: Solver, features: Sequence[Features], candidates: dict[str, np.ndarray]
) -> list[Choice]:
    """The best candidate weighting and strength for each set of features, by the loss on questions left out.

    All regressions go to the solver at once, for one that can share its passes among them.

    Raises:
        JudgeError: there are fewer questions than folds, or no fold with both labels.
    """
    left_out = _folds(table)
    # One array for each weighting and fold, shared by all problems that use it.
    weights = {
        (name, fold): np.where(rows, np.float32(0), one)
        for name, one in candidates.items()
        for fold, rows in enumerate(left_out)
    }
    grid = list(product(features, candidates, STRENGTHS, range(len(left_out))))
    problems = [Problem(one, weights[name, fold], strength) for one, name, strength, fold in grid]
    solutions = zip(problems, solve(table, problems), strict=True)
    scores = score(table, [as_if_balanced(table, problem, solution) for problem, solution in solutions])
    losses: dict[tuple[Features, str, float], list[float]] = {}
    for column, (one, name, strength, fold) in enumerate(grid):
        rows = left_out[fold]
        right = table.right[rows]
        counts = candidates[name][rows] if name == POSITIONS_BALANCED else label_balanced(right)
        loss = log_loss(right, expit(scores[rows, column].astype(np.float64)), sample_weight=counts)
        losses.setdefault((one, name, strength), []).append(float(loss))
    return [most_careful({key: found for key, found in losses.items() if key[0] == one}) for one in features]


def most_careful(losses: dict[tuple[Features, str, float], list[float]]) -> Choice:
    """The strongest regularisation that is not clearly worse than the best: within one standard error over the folds.

    The differences beyond it are noise of the sample, and a choice by them changes from run to run (Breiman et al.,
    Classification and Regression Trees, 1984, section 3.4.3).
    """
    best = min(losses.values(), key=np.mean)
    limit = np.mean(best) + np.std(best, ddof=1) / np.sqrt(len(best)) if len(best) > 1 else np.mean(best)
    near = [Choice(*key, float(np.mean(found))) for key, found in losses.items() if np.mean(found) <= limit]
    return min(near, key=lambda choice: (choice.strength, choice.loss))


def _folds(table: TokenTable) -> list[np.ndarray]:
    """[N] bool masks of what a fold leaves out: training questions, each in one mask, where both labels occur."""
    train = np.flatnonzero(~table.held_out)
    groups = table.question[train]
    questions = len(np.unique(groups))
    if questions < FOLDS:
        raise JudgeError(f"cross-validation needs at least {FOLDS} questions to train on, found {questions}.")
    masks = []
    for _, test in GroupKFold(FOLDS).split(train, groups=groups):
        mask = np.zeros(len(table), dtype=bool)
        mask[train[test]] = True
        rest = table.right[~table.held_out & ~mask]
        if 0 < table.right[mask].sum() < mask.sum() and 0 < rest.sum() < len(rest):
            masks.append(mask)
    if not masks:
        raise JudgeError("mistakes occur in too few questions for a cross-validation: label more wrong answers.")
    return masks
