"""Whether what a verifier made of one request is what the oracle makes of it.

Tokens and verdicts are compared exactly, with two exceptions, both decided by the oracle itself:

- Rounding. Sums of floats depend on their order, so a decision within rounding of a tie may fall either way. Such a
  case is asked again with the uniform numbers, the scores and the noise of the token in question moved by `slack`: if
  the oracle then gives the verifier's result, it is called a tie, and counted.
- What the rule leaves open. Of a row with a NaN, or, sampled, without a finite maximum, it only says that the target's
  own token is some valid id; and a greedy strict test of a row with NaN has no defined outcome. Nor is there a residual
  to sample from where p and q are the same within rounding: vLLM's own kernels then give token 0.
"""

from enum import StrEnum
from itertools import product
from typing import Any

import torch

from vllm_judge.kernels import reference

# What fp32 may lose of a logarithm, as a share of the largest logit that went into it.
ROUNDING = 2e-6


class Agreement(StrEnum):
    same = "same"
    open = "open"  # as far as the rule goes
    tie = "tie"
    different = "different"


def compare(step: dict[str, Any], tokens: list[int], verdicts: list[int], score_slack: float = 0.0) -> Agreement:
    """Compares one request's verification with the oracle's.

    Args:
        step: arguments of `reference.verify`.
        tokens: what the verifier let pass, its own token included; verdicts: of the drafts and of places behind them.
        score_slack: what rounding may do to a score; 0 where scores are exact.
    """
    agreement = _agrees(step, reference.verify(**step), tokens, verdicts)
    if agreement is not Agreement.different or not _ids_are_valid(step, tokens):
        return agreement
    slack = slack_of(*_logits_read(step))
    for moved_uniform, moved_score in product((0.0, -slack, slack), {0.0, -score_slack, score_slack}):
        moved = dict(step, judge_scores=step["judge_scores"] + moved_score)
        if step["temperature"] > 0.0:
            moved["uniform"] = step["uniform"] * torch.tensor(moved_uniform).exp()
            moved["gumbel"] = step["gumbel"].clone()
            moved["gumbel"][len(tokens) - 1, tokens[-1]] += 2 * slack
        if _agrees(moved, reference.verify(**moved), tokens, verdicts) is not Agreement.different:
            return Agreement.tie
    return Agreement.different


def _agrees(step: dict[str, Any], want: reference.Verification, tokens: list[int], verdicts: list[int]) -> Agreement:
    rows = step["target_logits"][:, : _vocab_size(step)].float()
    wanted, said = want.tokens.tolist(), want.verdicts.tolist()
    same_verdicts = verdicts == said + [0] * (len(verdicts) - len(said))
    if step["temperature"] == 0.0:
        broken = rows.isnan().any(dim=-1)[: want.num_accepted + want.gain + 1].nonzero().flatten().tolist()
        if not broken:
            same = tokens == wanted and same_verdicts
            return Agreement.same if same else Agreement.different
        before = broken[0]
        same = tokens[:before] == wanted[:before] and _ids_are_valid(step, tokens)
        return Agreement.open if same else Agreement.different
    same = tokens[:-1] == wanted[:-1] and same_verdicts
    if not same:
        return Agreement.different
    if _own_token_is_open(step, rows, want.num_accepted):
        return Agreement.open if _ids_are_valid(step, tokens) else Agreement.different
    return Agreement.same if tokens == wanted else Agreement.different


def _own_token_is_open(step: dict[str, Any], rows: torch.Tensor, row: int) -> bool:
    """Whether the distribution that the token after the prefix is sampled from is none."""
    if not rows[row].amax().isfinite():  # the maximum of a row with NaN is NaN
        return True
    drafts = step["draft_tokens"]
    if row == len(drafts) or drafts[row] < 0:
        return False
    # Where p and q are the same within rounding, so is what is left of p.
    p = rows[row].softmax(dim=-1)
    if step["draft_logits"] is None:
        return bool(p[torch.arange(len(p)) != drafts[row]].amax() == 0.0)
    q = (step["draft_logits"][row, : rows.shape[1]].float() / step["temperature"]).softmax(dim=-1)
    return not bool((p - q).amax() > slack_of(*_logits_read(step)))


def _ids_are_valid(step: dict[str, Any], tokens: list[int]) -> bool:
    return 1 <= len(tokens) <= len(step["draft_tokens"]) + 1 and all(0 <= t < _vocab_size(step) for t in tokens)


def _vocab_size(step: dict[str, Any]) -> int:
    return min(t.shape[-1] for t in (step["target_logits"], step["draft_logits"]) if t is not None)


def _logits_read(step: dict[str, Any]) -> list[torch.Tensor]:
    if step["draft_logits"] is None or step["temperature"] == 0.0:
        return [step["target_logits"]]
    return [step["target_logits"], step["draft_logits"].float() / step["temperature"]]


def slack_of(*logits: torch.Tensor) -> float:
    """What rounding may do to a logarithm that is made of such logits."""
    finite = [one.float().nan_to_num(0.0, 0.0, 0.0).abs().amax() for one in logits if one.numel()]
    return ROUNDING * (8.0 + float(max(finite)))
