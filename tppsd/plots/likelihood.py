"""A figure of where in a window a model is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tppsd.plots.style import FAINT, TEXT, colours_of, label, legend_below, new_figure, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def nll_by_time_plot(
    edges: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    trained_until: float | None = None,
    start: float = 0.0,
    unit: str | None = None,
    title: str = "Longer windows than in training",
) -> Figure:
    """Draw the NLL per event above that of the true process, by stretch of the window.

    Args:
        edges: ends of the stretches, as given to `nll_by_time`.
        curves: per name, NLL per event of each stretch.
        truth: the same of the true process.
        trained_until: end of the windows of the training split; None = unmarked.
        start: of the first stretch.
        unit: of time.
    """
    figure = new_figure(7.2, 3.9)
    axes = figure.subplots()
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for name, colour in colours_of(curves).items():
        excess = [nll - true for nll, true in zip(curves[name], truth, strict=True)]
        axes.stairs(excess, [start, *edges], color=colour, linewidth=2, label=name, baseline=None)
    if trained_until is not None:
        axes.axvline(trained_until, color=TEXT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            "windows end here in training", (trained_until, 1), (4, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8.5, color=FAINT,
        )  # fmt: skip
    axes.set_xlim(start, edges[-1])
    axes.margins(y=0.15)
    time = f"time since the window's start [{unit}]" if unit else "time since the window's start"
    label(axes, time, "nats per event above the truth", "Negative log-likelihood of the events of each stretch")
    legend_below(figure, *axes.get_legend_handles_labels(), most=4)
    title_of(figure, title)
    return figure
