"""The picture of a replay: how many tokens a cycle accepts, strict verification beside the judge."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vllm_judge.replay.summary import AuthorSummary

COLOURS = {"strict": "#0072B2", "judge": "#E69F00"}  # Okabe and Ito's, told apart by the colour-blind too
BAR = 0.4


def draw(path: Path, summaries: Sequence[AuthorSummary], num_speculative_tokens: int) -> None:
    """Writes a PNG with a panel for each author; hatched are cycles that the end of a text cut short."""
    figure = Figure(figsize=(9, 1.2 + 2.4 * len(summaries)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(summaries), sharex=True, squeeze=False)
    for axes, summary in zip(rows[:, 0], summaries, strict=True):
        for side, (rule, found) in zip((-BAR / 2, BAR / 2), summary.rules.items(), strict=True):
            positions = [kept + side for kept in range(num_speculative_tokens + 1)]
            total = sum(found.accepted_counts)
            heights = [100 * count / total for count in found.accepted_counts]
            label = f"{rule}: {found.accepted_per_cycle.value:.2f} a cycle on average"
            axes.bar(positions, heights, BAR, color=COLOURS[rule], label=label)
            cut = [100 * count / total for count in found.cut_counts]
            axes.bar(positions, cut, BAR, color="none", edgecolor="black", hatch="////", linewidth=0)
        axes.set_title(f"{summary.author} ({summary.texts} texts, {summary.tokens} tokens)", loc="left", fontsize=10)
        axes.set_ylabel("% of cycles")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
    axes.set_xticks(range(num_speculative_tokens + 1))
    axes.set_xlabel(
        f"accepted tokens of a cycle of {num_speculative_tokens}; hatched: cut short by the end of the text"
    )
    figure.savefig(path, dpi=150)
