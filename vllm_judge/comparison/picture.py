"""The picture of a comparison: accuracy against tokens per target forward, one curve a rule."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vllm_judge.comparison.points import Point

# Mostly Okabe and Ito's colours, told apart by the colour-blind too; markers repeat what colours say.
COLOURS = (
    *("#000000", "#0072B2", "#D55E00", "#999999", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#8C564B", "#9E9E00", "#6A3D9A", "#2F4F4F"),
)
MARKERS = "*osX^vDP<>hp"
NEAR = 5.0  # percentage points below strict verification that the second panel shows


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    """Writes a PNG: all points, and beside them those near strict verification, which is the first point.

    Bars are 95% intervals; rings and a stepped line mark the Pareto front.
    """
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    whole, near = figure.subplots(1, 2)
    for axes in (whole, near):
        _curves(axes, points)
        _front(axes, points)
        axes.set_xlabel("generated tokens per target forward")
        axes.grid(alpha=0.3)
    whole.set_ylabel("accuracy in %")
    near.set_ylim(100 * points[0].accuracy.value - NEAR, 100 * max(point.accuracy.value for point in points) + 1)
    near.set_title(f"from {NEAR:g} points below strict verification", fontsize="medium")
    figure.suptitle(title)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)


def _curves(axes: Axes, points: Sequence[Point]) -> None:
    for index, (rule, of_rule) in enumerate(groupby(points, key=lambda point: point.rule)):
        curve = sorted(of_rule, key=lambda point: point.tokens_per_forward.value)
        x = [point.tokens_per_forward for point in curve]
        y = [point.accuracy for point in curve]
        _, _, bars = axes.errorbar(
            [one.value for one in x],
            [100 * one.value for one in y],
            xerr=[[one.value - one.low for one in x], [one.high - one.value for one in x]],
            yerr=[[100 * (one.value - one.low) for one in y], [100 * (one.high - one.value) for one in y]],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linewidth=1.6,
            elinewidth=1,
            label=rule,
        )
        for bar in bars:
            bar.set_alpha(0.25)


def _front(axes: Axes, points: Sequence[Point]) -> None:
    front = sorted((point.tokens_per_forward.value, 100 * point.accuracy.value) for point in points if point.on_front)
    x, y = zip(*front, strict=True)
    axes.step(x, y, where="pre", color="black", linestyle=":", linewidth=1, zorder=0)
    axes.scatter(x, y, s=140, facecolors="none", edgecolors="black", zorder=3, label="Pareto front")
