"""A fitted head written down: its folder with weights, model card, figures and pictures."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_judge.errors import JudgeError
from vllm_judge.head import JudgeHead
from vllm_judge.judge_json import JUDGE_JSON
from vllm_judge.training.card import head_card
from vllm_judge.training.fitted import FittedHead
from vllm_judge.training.measure import ThresholdRates
from vllm_judge.training.plots import draw


def threshold_for(rates: list[ThresholdRates], false_accepts: float) -> float:
    """The lowest threshold that accepts at most this share of mistakes, or the highest of all where none does."""
    return next((rate.threshold for rate in rates if rate.false_accepts <= false_accepts), rates[-1].threshold)


def write_head(folder: Path, fitted: FittedHead, false_accepts: float) -> JudgeHead:
    """Writes the head's folder: config.json, model.safetensors, README.md, roc.png, thresholds.png.

    Args:
        folder: made where there is none.
        false_accepts: share of mistakes that the default threshold may accept.

    Returns:
        The head as it was written, with threshold and provenance.

    Raises:
        JudgeError: the folder cannot be written.
    """
    settings = fitted.table.index.settings
    head = fitted.head.with_config(
        threshold=threshold_for(fitted.rates, false_accepts),
        target_model=settings.target,
        target_revision=settings.revision,
        provenance=provenance(fitted),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A judge.json there serves an earlier head as that one was calibrated, which this one is not.
        (folder / JUDGE_JSON).unlink(missing_ok=True)
        draw(folder, fitted)
        (folder / "README.md").write_text(head_card(head), encoding="utf-8")
        head.save_pretrained(folder)
    except OSError as error:
        raise JudgeError(f"the head cannot be written to {folder}: {error.strerror}.") from None
    return head


def copy_head(source: Path, folder: Path) -> None:
    """Copies a head's folder without its judge.json, and takes one away that serves an earlier head there.

    Raises:
        JudgeError: the folder cannot be written.
    """
    try:
        (folder / JUDGE_JSON).unlink(missing_ok=True)
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=lambda *_: [JUDGE_JSON])
    except (OSError, shutil.Error) as error:
        raise JudgeError(
            f"the head cannot be written to {folder}: {getattr(error, 'strerror', None) or error}."
        ) from None


def provenance(fitted: FittedHead) -> dict[str, Any]:
    """How the head was trained and measured, as it goes into its config.json."""
    table, settings = fitted.table, fitted.table.index.settings
    choice = next(choice for choice in fitted.choices if choice.features == fitted.features)
    mismatch = fitted.chosen.auc_mismatch
    method = (
        f"Labelled answers (TokenCourt), tokens after a mistake {settings.after.value}; hidden states by "
        f"{settings.source} in {settings.dtype}. Logistic regression, C={choice.strength:g} and {choice.weighting}, "
        "both by cross-validation over questions."
    )
    return {
        "method": method,
        "fit_tokens": _counts(table.right[~table.held_out]),
        "held_out_tokens": _counts(table.right[table.held_out]),
        "auc": fitted.chosen.auc.value,
        "auc_mismatch": None if mismatch is None else mismatch.value,
        "rates": [asdict(rate) for rate in fitted.rates],
        "rates_mismatch": fitted.rates_mismatch and [asdict(rate) for rate in fitted.rates_mismatch],
        "balance_positions": fitted.balance_positions,
        "ablation": [asdict(line) for line in fitted.ablation],
        "choices": [asdict(one) for one in fitted.choices],
        "warnings": fitted.warnings,
        "hidden_states": settings.model_dump(mode="json"),
    }


def _counts(right: Any) -> dict[str, int]:
    return {"right": int(right.sum()), "wrong": int((~right).sum())}
