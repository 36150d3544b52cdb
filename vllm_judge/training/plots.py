"""The pictures of a fit: ROC curves of the ablation, and what the head accepts by threshold."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from vllm_judge.training.card import ROC, THRESHOLDS
from vllm_judge.training.fitted import FittedHead
from vllm_judge.training.measure import ThresholdRates


def draw(folder: Path, fitted: FittedHead) -> None:
    """Writes roc.png and thresholds.png, both of held-out tokens."""
    table = fitted.table
    rows = {"all tokens": table.held_out}
    if fitted.rates_mismatch is not None:
        rows["tokens the target would not have chosen"] = table.held_out & table.mismatch
    figure, panels = _figure(len(rows))
    for axes, (title, chosen) in zip(panels, rows.items(), strict=True):
        _roc(axes, title, fitted.scores, table.right, chosen)
    figure.savefig(folder / ROC, dpi=80)

    rates = [fitted.rates] + ([] if fitted.rates_mismatch is None else [fitted.rates_mismatch])
    figure, panels = _figure(len(rates))
    for axes, title, measured in zip(panels, rows, rates, strict=True):
        _rates(axes, title, measured)
    figure.savefig(folder / THRESHOLDS, dpi=80)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6 * panels, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _roc(axes: Axes, title: str, scores: dict[str, np.ndarray], right: np.ndarray, rows: np.ndarray) -> None:
    for name, score in scores.items():
        false_accepts, accepts, _ = roc_curve(right[rows], score[rows])
        axes.plot(false_accepts, accepts, label=name, linestyle=":" if name == "position" else "-")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(title=title, xlabel="mistakes accepted", ylabel="right tokens accepted")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _rates(axes: Axes, title: str, rates: list[ThresholdRates]) -> None:
    thresholds = [rate.threshold for rate in rates]
    axes.plot(thresholds, [rate.accepts for rate in rates], marker="o", label="right tokens accepted (recall)")
    axes.plot(thresholds, [rate.false_accepts for rate in rates], marker="s", label="mistakes accepted")
    precision = [(rate.threshold, rate.precision) for rate in rates if rate.precision is not None]
    if precision:
        axes.plot(*zip(*precision, strict=True), marker="^", label="precision")
    axes.set(title=title, xlabel="threshold", ylabel="share")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
