"""What is known of a fitted head: what it was measured to be, and what to say of it."""

from dataclasses import dataclass

import numpy as np

from vllm_judge.head import JudgeHead
from vllm_judge.measuring.statistics import Estimate
from vllm_judge.training.choices import Features
from vllm_judge.training.measure import ThresholdRates
from vllm_judge.training.selection import Choice
from vllm_judge.training.table import TokenTable

# A head whose AUC is not above that of position by this much, at the interval's lower end, has not clearly beaten it.
CLEARLY = 0.01
UNCONVERGED = (
    "the solver gave up before it came to the minimum: the figures are this head's own, measured as always, but a "
    "better one may be had; compare --features hidden and --features evidence."
)


@dataclass(frozen=True)
class Ablation:
    """One line of the ablation, measured on held-out questions.

    Attributes:
        name: what was read: both, hidden, evidence, or position.
        auc: on all tokens.
        auc_mismatch: on tokens where the target itself would have chosen another; None where a label is missing there.
        over_position: how much `auc` is above that of position; None for position itself.
    """

    name: str
    auc: Estimate
    auc_mismatch: Estimate | None
    over_position: Estimate | None


@dataclass(frozen=True)
class FittedHead:
    """A head and what was measured of it.

    Attributes:
        head: its threshold and provenance are not set yet.
        converged: whether the solver came to the minimum.
        features: what `head` reads.
        balance_positions: whether tokens were weighed, in the fit and in every AUC, so that position tells nothing.
        choices: what cross-validation chose, for each set of features.
        ablation: both, hidden, evidence, position.
        rates: by threshold, on held-out tokens.
        rates_mismatch: on those where the target itself would have chosen another; None where a label is missing there.
        scores: [N] log-odds per line of the ablation, on all tokens of the table.
        table: the tokens.
    """

    head: JudgeHead
    converged: bool
    features: Features
    balance_positions: bool
    choices: list[Choice]
    ablation: list[Ablation]
    rates: list[ThresholdRates]
    rates_mismatch: list[ThresholdRates] | None
    scores: dict[str, np.ndarray]
    table: TokenTable

    @property
    def chosen(self) -> Ablation:
        """The head's own line of the ablation."""
        return next(line for line in self.ablation if line.name == self.features)

    @property
    def warnings(self) -> list[str]:
        """What to say of a head that does not clearly beat position, or of a solver that gave up."""
        said = [] if self.converged else [UNCONVERGED]
        beaten = self.chosen.over_position
        assert beaten is not None
        if beaten.low > CLEARLY:
            return said
        position = next(line for line in self.ablation if line.name == "position")
        advice = (
            "label more answers" if self.balance_positions else "fit with --balance-positions, or label more answers"
        )
        return [
            *said,
            f"this head does not clearly beat a baseline that knows only a token's position in the answer: AUC "
            f"{self.chosen.auc.value:.3f} against {position.auc.value:.3f}, difference {beaten.value:+.3f} "
            f"(95% interval {beaten.low:+.3f} to {beaten.high:+.3f}). It may have learnt that mistakes come late: "
            f"do not serve it; {advice}.",
        ]
