"""A figure of the speed-ups of many cells at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tppsd.plots.style import FAINT, OTHERS, TEXT, label, legend_below, new_figure, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Speedup(NamedTuple):
    """Holds a dot with its range.

    Fields: panel, line, series: where it is drawn and in which colour; median, low, high: how many times as fast as
    the baseline.
    """

    panel: str
    line: str
    series: str
    median: float
    low: float
    high: float


def speedup_plot(speedups: Sequence[Speedup], title: str = "Speed-up over cached autoregressive sampling") -> Figure:
    """Draw a panel for each `panel`, a line for each `line`, and a dot with a whisker for each `series`.

    All are in order of appearance.

    Raises:
        ValueError: there is nothing to draw, or more than four series.
    """
    panels, lines, series = (list(dict.fromkeys(str(s[i]) for s in speedups)) for i in range(3))
    if not 1 <= len(series) <= len(OTHERS):
        raise ValueError(f"a figure of speed-ups has one to {len(OTHERS)} series; there are {len(series)}")
    figure = new_figure(max(5.6, 2.0 + 2.6 * len(panels)), 1.5 + 0.32 * len(lines))  # at least as wide as its title
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels, strict=True):
        for i, name in enumerate(series):
            own = [s for s in speedups if (s.panel, s.series) == (panel, name)]
            ys = [lines.index(s.line) + 0.24 * (i - (len(series) - 1) / 2) for s in own]
            medians = [s.median for s in own]
            whiskers = [[s.median - s.low for s in own], [s.high - s.median for s in own]]
            axes.errorbar(
                medians, ys, xerr=whiskers, fmt="o", color=OTHERS[i], markersize=4.5, elinewidth=1.2, label=name
            )
        axes.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=":")
        axes.set_xlim(left=0.0)
        label(axes, "times as fast", "", panel)
        axes.grid(axis="y", visible=False)
    every[0].set_yticks(range(len(lines)), lines, color=TEXT)
    every[0].invert_yaxis()
    if len(series) > 1:
        legend_below(figure, *every[0].get_legend_handles_labels())
    title_of(figure, title)
    return figure
