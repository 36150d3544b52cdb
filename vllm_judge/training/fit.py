"""Hidden states and labels -> a judge head, by logistic regression."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vllm_judge.head import JudgeHead, logit

MAX_ITERATIONS = 2000
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)


@dataclass(frozen=True)
class Tokens:
    """Labelled tokens: hidden [N, H] fp32, evidence [N, 4] fp32, right [N] bool (False: the token is a mistake)."""

    hidden: torch.Tensor
    evidence: torch.Tensor
    right: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> "Tokens":
        """The tokens that a mask or an index tensor chooses."""
        return Tokens(self.hidden[chosen], self.evidence[chosen], self.right[chosen])

    def __len__(self) -> int:
        return len(self.right)


@dataclass(frozen=True)
class Rates:
    """What a head does at a threshold: the share of right tokens and of mistakes that it accepts."""

    threshold: float
    accepts: float
    false_accepts: float


def fit_head(tokens: Tokens, use_evidence: bool, strength: float = 1.0) -> JudgeHead:
    """A head fitted on labelled tokens.

    Both labels weigh the same in all, however few the mistakes are. Features are standardised for the fit, and the
    scaling is folded into the weights: the head reads raw hidden states.

    Args:
        tokens: both labels must occur.
        use_evidence: whether the head reads the target's own distribution beside the hidden state.
        strength: inverse of the L2 regularisation, scikit-learn's `C`.
    """
    features = torch.cat([tokens.hidden, tokens.evidence], dim=1) if use_evidence else tokens.hidden
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    )
    pipeline.fit(features.double().numpy(), tokens.right.numpy())
    scaler, regression = pipeline[0], pipeline[1]
    weights = regression.coef_[0] / scaler.scale_
    bias = regression.intercept_[0] - weights @ scaler.mean_

    hidden_size = tokens.hidden.shape[1]
    head = JudgeHead(hidden_size, use_evidence=use_evidence).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(weights[:hidden_size]))
    head.bias.fill_(bias)
    if head.evidence is not None:
        head.evidence.copy_(torch.from_numpy(weights[hidden_size:]))
    return head.eval()


def with_config(head: JudgeHead, **config: Any) -> JudgeHead:
    """The same head with other fields: a head is saved with the fields that it was made with."""
    copy = JudgeHead(head.hidden_size, use_evidence=head.evidence is not None, **config).requires_grad_(False)
    copy.load_state_dict(head.state_dict())
    return copy.eval()


def scores(head: JudgeHead, tokens: Tokens) -> np.ndarray:
    """[N] fp32 log-odds that the tokens are right."""
    return head.score(tokens.hidden, tokens.evidence).numpy()


def auc(head: JudgeHead, tokens: Tokens) -> float:
    """The chance that a right token scores above a mistake."""
    return float(roc_auc_score(tokens.right.numpy(), scores(head, tokens)))


def rates(head: JudgeHead, tokens: Tokens) -> list[Rates]:
    """The head's rates on tokens at each of THRESHOLDS."""
    right, score = tokens.right.numpy(), scores(head, tokens)
    accepted = {threshold: score > logit(threshold) for threshold in THRESHOLDS}
    return [Rates(t, float(taken[right].mean()), float(taken[~right].mean())) for t, taken in accepted.items()]


def as_record(measured: list[Rates]) -> list[dict[str, float]]:
    """Rates as plain numbers, for a head's provenance."""
    return [{key: round(value, 5) for key, value in asdict(rate).items()} for rate in measured]
