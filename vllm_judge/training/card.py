"""The model card of a judge head."""

from collections.abc import Iterable
from typing import Any

from vllm_judge.head import JudgeHead

CARD = """---
library_name: vllm-judge-decoding
tags: [judge-decoding, speculative-decoding, vllm]
---

# Judge head for {target}

One linear layer for [Judge Decoding](https://arxiv.org/abs/2501.19309) in vLLM. It reads {inputs}, and
scores whether a draft token is right where it stands, however the target itself would have worded it. A draft token is
accepted when vLLM's own verification accepts it or when the score's probability is above the threshold ({threshold}
unless set).

Use it with the target that it was fitted on, and with no other:

    vllm serve {target} --speculative-config {config}

Judge Decoding does not keep the target's distribution: an accepted token is one that the judge takes for right.

## How it was trained

{method}
"""
UNCALIBRATED = (
    """'{"method": "draft_model", "model": "<draft>", "num_speculative_tokens": 16, "judge": {"model": "<this>"}}'"""
)

MEASURED = """
Fitted on {fit_right:,} right tokens and {fit_wrong:,} mistakes; measured on {held_out_right:,} right tokens and
{held_out_wrong:,} mistakes of other problems. AUC {auc:.4f}{auc_mismatch}.

| threshold | right tokens accepted | mistakes accepted |
|---|---|---|
{rates}
"""

ABLATION = """
## What it learnt from

AUC on held-out questions, with 95% intervals over questions. `position` knows only how many tokens of the answer came
before: mistakes come late, and a head that is no better has not learnt truth.{balanced}

| reads | all tokens | tokens the target would not have chosen | above position |
|---|---|---|---|
{rows}
{warnings}
![ROC curves]({roc})
![By threshold]({thresholds})
"""
BALANCED = " Here tokens are weighed so that both labels are as frequent at every position."
ROC, THRESHOLDS = "roc.png", "thresholds.png"

CALIBRATION = """
## How its threshold was chosen

{promise}

| threshold | accuracy | minus strict verification | tokens per target forward |
|---|---|---|---|
{rows}
"""
SPEED = """
## How fast it was

Tokens/s on one machine, medians of {rounds} rounds of {n} questions, greedy; ranges over all pairs of rounds.

| requests at a time | judged | over the target alone | over strict verification with its best number of drafts |
|---|---|---|---|
{rows}
"""


def head_card(head: JudgeHead) -> str:
    """A README.md from what the head's provenance says; measurements only where there are."""
    provenance = head.provenance
    inputs = "the target's last hidden state at the token's own row"
    if head.evidence is not None:
        inputs += " and what the target's own distribution said of the token"
    card = CARD.format(
        target=head.target_model,
        inputs=inputs,
        threshold=head.threshold,
        config="<this folder or repository>" if "calibration" in provenance else UNCALIBRATED,
        method=provenance["method"],
    )
    if "rates" in provenance:
        card += _measured(provenance)
    if "ablation" in provenance:
        card += ABLATION.format(
            balanced=BALANCED if provenance["balance_positions"] else "",
            rows=_rows(ablation_cells(line) for line in provenance["ablation"]),
            warnings="".join(f"\n**Warning: {warning}**\n" for warning in provenance["warnings"]),
            roc=ROC,
            thresholds=THRESHOLDS,
        )
    if "calibration" in provenance:
        calibration = provenance["calibration"]
        card += CALIBRATION.format(promise=calibration["promise"], rows=_rows(map(_point, calibration["points"])))
    if "speed" in provenance:
        speed = provenance["speed"]
        card += SPEED.format(rounds=speed["rounds"], n=speed["n"], rows=_rows(map(_level, speed["levels"])))
    return card


def _measured(provenance: dict[str, Any]) -> str:
    mismatch = provenance["auc_mismatch"]
    rows = (f"| {r['threshold']} | {r['accepts']:.2%} | {r['false_accepts']:.2%} |" for r in provenance["rates"])
    return MEASURED.format(
        fit_right=provenance["fit_tokens"]["right"],
        fit_wrong=provenance["fit_tokens"]["wrong"],
        held_out_right=provenance["held_out_tokens"]["right"],
        held_out_wrong=provenance["held_out_tokens"]["wrong"],
        auc=provenance["auc"],
        auc_mismatch=""
        if mismatch is None
        else f"; among tokens that the target would not have chosen itself\n{mismatch:.4f}",
        rates="\n".join(rows),
    )


def ablation_cells(line: dict[str, Any]) -> tuple[str, str, str, str]:
    """A line of the ablation, as `provenance["ablation"]` has it, in words."""
    return (
        line["name"],
        interval(line["auc"]),
        interval(line["auc_mismatch"]),
        interval(line["over_position"], "+.3f"),
    )


def interval(estimate: dict[str, float] | None, form: str = ".3f", factor: float = 1.0) -> str:
    """An estimate with its interval, such as "0.910 (0.880 to 0.930)"."""
    if estimate is None:
        return "-"
    value, low, high = (f"{factor * estimate[name]:{form}}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _point(point: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        f"{point['setting']['threshold']:g}" if point["setting"] else "strict",
        interval(point["accuracy"], ".1f", 100),
        interval(point["minus_strict"], "+.1f", 100),
        interval(point["tokens_per_forward"], ".2f"),
    )


def _level(level: dict[str, Any]) -> tuple[str, ...]:
    judged, strict = level["judged"], level["strict"]
    ratios = [
        f"{one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
        for one in (level["over_plain"], level["over_strict"])
    ]
    return (
        str(level["concurrency"]),
        f"{judged['tokens_per_s']:.0f}, {judged['drafts']} drafts",
        ratios[0],
        f"{ratios[1]}, {strict['drafts']} drafts",
    )


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
