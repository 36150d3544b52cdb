"""From a folder of hidden states to a measured head, with the ablation that says what it learnt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vllm_judge.errors import JudgeError
from vllm_judge.training import fit_in_memory, fit_streamed
from vllm_judge.training.choices import Features
from vllm_judge.training.fitted import Ablation, FittedHead
from vllm_judge.training.measure import QuestionBootstrap, ThresholdRates, rates_by_threshold
from vllm_judge.training.position import position_balanced, position_score
from vllm_judge.training.problems import Linear, Problem, as_if_balanced, score
from vllm_judge.training.selection import Choice, choose, some_questions, weightings
from vllm_judge.training.table import TokenTable, load_table

# Above so many bytes of features the solver that goes block by block is the faster one: its passes serve all
# regressions of the cross-validation at once.
IN_MEMORY_BYTES = 32 << 20
MIN_TOKENS = 10  # of each label in each split, below which no figure means anything


def fit_folder(folder: Path, heads: Sequence[Features], balance_positions: bool = False) -> list[FittedHead]:
    """Fits and measures heads, and every line of the ablation beside them.

    Args:
        folder: finished hidden states.
        heads: what each head reads.
        balance_positions: weigh tokens so that position tells nothing of the label.

    Raises:
        JudgeError: the folder or its labels are of no use.
    """
    table = load_table(folder)
    _refuse_too_few(table)
    sample = table.in_memory(some_questions(table))
    choices = choose(sample, _solve, list(Features), weightings(sample, balance_positions))
    everything = sample if len(sample) == np.count_nonzero(~table.held_out) else table
    solutions = _solve_chosen(everything, choices, weightings(everything, balance_positions))
    fitted = score(table, [solutions[one] for one in Features])
    scores = {str(one): fitted[:, column] for column, one in enumerate(Features)}
    scores["position"] = position_score(table)

    held_out = table.held_out
    weights = held_out.astype(np.float32)
    if balance_positions:
        weights[held_out] = position_balanced(table.right[held_out], table.position[held_out])
    mismatch = held_out & table.mismatch & (weights > 0)
    both_labels = 0 < table.right[mismatch].sum() < mismatch.sum()
    ablation = _ablation(table, scores, weights, mismatch if both_labels else None)

    def rates(features: Features, tokens: np.ndarray) -> list[ThresholdRates]:
        return rates_by_threshold(scores[features][tokens], table.right[tokens])

    return [
        FittedHead(
            head=solutions[features].head(features, table.hidden_size),
            converged=solutions[features].converged,
            features=features,
            balance_positions=balance_positions,
            choices=choices,
            ablation=ablation,
            rates=rates(features, held_out),
            rates_mismatch=rates(features, mismatch) if both_labels else None,
            scores=scores,
            table=table,
        )
        for features in heads
    ]


def _solve(table: TokenTable, problems: Sequence[Problem]) -> list[Linear]:
    in_memory = 4 * len(table) * (table.hidden_size + 4) <= IN_MEMORY_BYTES
    return (fit_in_memory if in_memory else fit_streamed).solve(table, problems)


def _solve_chosen(
    table: TokenTable, choices: Sequence[Choice], candidates: dict[str, np.ndarray]
) -> dict[Features, Linear]:
    problems = [Problem(choice.features, candidates[choice.weighting], choice.strength) for choice in choices]
    solutions = zip(problems, _solve(table, problems), strict=True)
    return {problem.features: as_if_balanced(table, problem, solution) for problem, solution in solutions}


def _ablation(
    table: TokenTable, scores: dict[str, np.ndarray], weights: np.ndarray, mismatch: np.ndarray | None
) -> list[Ablation]:
    def bootstrap(rows: np.ndarray) -> QuestionBootstrap:
        return QuestionBootstrap(table.right[rows], table.question[rows], weights[rows])

    counted = weights > 0
    everywhere = bootstrap(counted)
    elsewhere = None if mismatch is None else bootstrap(mismatch)
    baseline = scores["position"][counted]
    return [
        Ablation(
            name,
            everywhere.auc(one[counted]),
            None if elsewhere is None else elsewhere.auc(one[mismatch]),
            None if name == "position" else everywhere.difference(one[counted], baseline),
        )
        for name, one in scores.items()
    ]


def _refuse_too_few(table: TokenTable) -> None:
    right, held_out = table.right, table.held_out
    for split, rows in (("training", ~held_out), ("held-out", held_out)):
        rights, wrongs = int(right[rows].sum()), int((~right[rows]).sum())
        if min(rights, wrongs) < MIN_TOKENS:
            raise JudgeError(
                f"the {split} questions have {rights} right tokens and {wrongs} mistakes, at least {MIN_TOKENS} of "
                "each are needed: label more answers."
            )
