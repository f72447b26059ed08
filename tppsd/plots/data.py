"""A figure of what is in event sequences: when events happen, how far apart, and of which marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tppsd.data.sequences import EventSequence
from tppsd.plots.sequences import draw_rows
from tppsd.plots.style import (
    REAL,
    label,
    mark_palette,
    names_of_marks,
    new_figure,
    num_marks_of,
    time_label,
    title_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS, _BINS, _SHOWN_MARKS = 10, 40, 12


def data_plot(
    sequences: Sequence[EventSequence],
    mark_names: Sequence[str] | None = None,
    time_unit: str | None = None,
    title: str = "The data",
) -> Figure:
    """Draw the first sequences, a histogram of the inter-times on a logarithmic axis, and the shares of the marks.

    Args:
        sequences: at least one with an event.
        mark_names: labels of the marks; default: their numbers.
        time_unit: unit of the event times.

    Raises:
        ValueError: there is no event.
    """
    kept = [sequence for sequence in sequences if len(sequence)]
    if not kept:
        raise ValueError("a figure of data needs at least one event; all sequences are empty")
    num_marks = num_marks_of(kept)
    palette = mark_palette(num_marks)
    figure = new_figure(11.0, 3.6)
    panels = figure.subplots(1, 2 + (num_marks > 1), width_ratios=(1.7, 1, 0.9)[: 2 + (num_marks > 1)])
    first = f"the first {len(kept[:_ROWS])} of {len(sequences):,} sequences"
    label(panels[0], time_label("time since the start of the window", time_unit), "", first)
    draw_rows(panels[0], kept[:_ROWS], palette)
    _inter_times(panels[1], kept, time_unit)
    if num_marks > 1:
        _marks(panels[2], kept, num_marks, names_of_marks(mark_names, num_marks), palette)
    title_of(figure, title)
    return figure


def _inter_times(axes: Axes, sequences: Sequence[EventSequence], time_unit: str | None) -> None:
    """Draw the histogram of positive inter-times."""
    values = torch.cat([sequence.inter_times for sequence in sequences])
    values = values[values > 0]
    if len(values):
        low, high = float(values.min().log10()), float(values.max().log10())
        edges = torch.logspace(low - 0.01, high + 0.01, _BINS + 1, dtype=torch.float64)
        axes.hist(values.numpy(), bins=edges.tolist(), color=REAL)
        axes.set_xscale("log")
        axes.minorticks_off()
    label(axes, time_label("inter-time", time_unit), "events", "time between events")


def _marks(
    axes: Axes, sequences: Sequence[EventSequence], num_marks: int, names: Sequence[str], palette: Sequence[object]
) -> None:
    """Draw the shares of the commonest marks as bars."""
    counts = torch.bincount(torch.cat([sequence.marks for sequence in sequences]), minlength=num_marks).double()
    order = counts.argsort(descending=True)[:_SHOWN_MARKS].tolist()
    shares = (100 * counts / counts.sum())[order].tolist()
    axes.barh(range(len(order)), shares, color=[palette[mark] for mark in order], height=0.7)
    axes.set_yticks(range(len(order)), [names[mark][:18] for mark in order])
    axes.invert_yaxis()
    shown = f"the {len(order)} commonest of {num_marks} marks" if len(order) < num_marks else "marks"
    label(axes, "per cent of the events", "", shown)
