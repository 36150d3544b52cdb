"""Whose choice each token of an answer was, from what the server says of the request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STRICT, JUDGE_ONLY, OWN = "strict", "judge-only", "own"
OPTION = "--per-request-spec-decode-metrics detailed"


@dataclass(frozen=True)
class Kinds:
    """Of an answer's tokens.

    Attributes:
        by_token: STRICT, accepted by the strict test; JUDGE_ONLY, accepted by the judge alone; OWN, the target's; None
            where it cannot be told.
        judge_only: how many of them only the judge accepted; None where the server does not say.
        missing: what cannot be told and why, in a sentence; "" where all can.
    """

    by_token: list[str | None]
    judge_only: int | None
    missing: str


def kinds_of(num_tokens: int, metrics: Mapping[str, Any] | None) -> Kinds:
    """Reads `metrics.speculative_decoding` of a response.

    A prefill gives one token, the target's own; each verification after it what it accepted and another own one. That
    is all as long as no step went without drafts: where steps did, only the judge's places are known.

    Args:
        num_tokens: of the answer; the last step may have given more than were wanted.
        metrics: as the server sent it, None where it sent none.
    """
    unknown: list[str | None] = [None] * num_tokens
    if metrics is None:
        return Kinds(unknown, None, f"no colours: start the server with {OPTION}.")
    judge_only, positions = metrics.get("num_judge_only_tokens"), metrics.get("judge_only_positions")
    accepted = metrics.get("per_step_accepted")
    if judge_only is None:
        return Kinds(unknown, None, "no colours: the server does not count what only its judge accepted.")
    if (judge_only and positions is None) or (metrics.get("num_spec_steps") and accepted is None):
        return Kinds(unknown, judge_only, f"no colours: start the server with {OPTION}.")
    by_token: list[str | None] = [OWN]
    for length in accepted or []:
        by_token += [STRICT] * length + [OWN]
    missing = ""
    if len(by_token) < num_tokens:
        by_token, missing = unknown, "only the judge's places are known: some steps went without drafts."
    by_token = by_token[:num_tokens]
    for place in positions or []:
        if 0 <= place < num_tokens:
            by_token[place] = JUDGE_ONLY
    judge_only = by_token.count(JUDGE_ONLY)  # the server counts what the last step gave behind the answer's end, too
    return Kinds(by_token, judge_only, missing)
