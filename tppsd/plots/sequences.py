"""Figures of event sequences, and of the intensities that drive them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.plots.style import (
    GRID,
    REAL,
    TEXT,
    colours_of,
    legend_below,
    legend_of,
    mark_legend,
    mark_palette,
    names_of_marks,
    new_figure,
    num_marks_of,
    plain,
    time_label,
    title_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_PANELS = 6  # marks of an intensity plot with a panel each
_MAX_LETTERS = 70  # of names of curves that stand in one line above the panels


def raster(
    groups: Mapping[str, Sequence[EventSequence]],
    num_rows: int = 8,
    mark_names: Sequence[str] | None = None,
    time_unit: str | None = None,
    title: str = "Event sequences",
) -> Figure:
    """Draw one panel per group and one row per sequence, with a tick per event in the colour of its mark.

    The line of a sequence is as long as its window.

    Args:
        groups: per name (real, autoregressive, speculative), sequences; the first `num_rows` are drawn.
        mark_names: labels of the marks for the legend; default: their numbers.
        time_unit: unit of the event times.
    """
    shown = {name: list(sequences)[:num_rows] for name, sequences in groups.items() if len(sequences)}
    if not shown:
        raise ValueError("a raster needs at least one sequence; every group is empty")
    rows = [len(sequences) for sequences in shown.values()]
    palette = mark_palette(num_marks_of(s for sequences in shown.values() for s in sequences))
    figure = new_figure(9.0, 1.3 + 0.19 * sum(rows) + 0.25 * len(rows))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    colours = colours_of(shown)
    for panel, (name, sequences) in zip(panels, shown.items(), strict=True):
        draw_rows(panel, sequences, palette if len(palette) > 1 else [colours[name]])
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold", color=colours[name], pad=3)
    panels[-1].set_xlabel(time_label("time since the start of the window", time_unit), fontsize=9.5, color=TEXT)
    panels[-1].set_xlim(0, max(s.window_end - s.window_start for sequences in shown.values() for s in sequences) or 1.0)
    mark_legend(figure, list(panels), palette, mark_names)
    title_of(figure, title)
    return figure


def draw_rows(axes: Axes, sequences: Sequence[EventSequence], palette: list[Any]) -> None:
    """Draw the sequences of one group."""
    plain(axes)
    for row, sequence in enumerate(sequences):
        axes.hlines(row, 0, sequence.window_end - sequence.window_start, color=GRID, linewidth=1, zorder=1)
        times = sequence.event_times - sequence.window_start
        colours = [palette[mark] for mark in sequence.marks.tolist()]
        axes.vlines(times, row - 0.36, row + 0.36, colors=colours, linewidth=1.1, zorder=2)
    axes.set_ylim(len(sequences) - 0.4, -0.6)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def intensity_plot(
    times: Tensor,
    curves: Mapping[str, Tensor],
    events: EventSequence | None = None,
    mark_names: Sequence[str] | None = None,
    time_unit: str | None = None,
    title: str = "Conditional intensity",
) -> Figure:
    """Draw intensities over time with the events that drive them.

    There is a panel per mark, or one panel of the sum if there are many.

    Args:
        times: (n,).
        curves: per name, intensities (n,) or (n, num_marks), in events per unit of time.
        events: the events, drawn as ticks below the curves.
    """
    values = {name: curve.detach().cpu().reshape(len(times), -1) for name, curve in curves.items()}
    if not values:
        raise ValueError("an intensity plot needs at least one curve")
    num_marks = next(iter(values.values())).shape[1]
    split = 1 < num_marks <= _MAX_PANELS
    if not split:
        values = {name: curve.sum(1, keepdim=True) for name, curve in values.items()}
    num_panels = num_marks if split else 1
    figure = new_figure(9.0, 1.5 + 1.35 * num_panels if split else 3.4)
    panels = figure.subplots(num_panels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    palette = mark_palette(max(num_marks, num_marks_of([events] if events is not None else [])))
    names = names_of_marks(mark_names, num_panels) if split else []
    for mark, panel in enumerate(panels):
        _intensity_panel(panel, times, {name: curve[:, mark] for name, curve in values.items()})
        if events is not None:
            ticks = events.event_times[events.marks == mark] if split else events.event_times
            colours = palette[mark] if split else [palette[k] for k in events.marks.tolist()]
            panel.vlines(ticks, 0, 0.07, colors=colours, linewidth=1.1, transform=panel.get_xaxis_transform(), zorder=4)
        if split:
            panel.set_title(names[mark], loc="left", fontsize=9, color=palette[mark], fontweight="bold", pad=3)
    panels[0].set_ylim(bottom=0)  # after all panels, which share it, are drawn
    panels[-1].set_xlim(float(times[0]), float(times[-1]))
    panels[-1].set_xlabel(time_label("time", time_unit), fontsize=9.5, color=TEXT)
    figure.supylabel(f"events per {time_unit}" if time_unit else "events per unit of time", fontsize=9.5, color=TEXT)
    if sum(map(len, values)) < _MAX_LETTERS:
        legend_of(panels[0], loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.1, ncols=len(values))
    else:
        legend_below(figure, *panels[0].get_legend_handles_labels())
    if events is not None and not split:
        mark_legend(figure, list(panels), palette, mark_names)
    title_of(figure, title)
    return figure


def _intensity_panel(axes: Axes, times: Tensor, curves: Mapping[str, Tensor]) -> None:
    """Draw solid curves, the first on top, under a thin dashed one for the truth."""
    plain(axes)
    for i, (name, colour) in enumerate(colours_of(curves).items()):
        style, width, order = ("--", 1.1, 3.0) if colour == REAL else ("-", 1.6, 3 - (i + 1) / (len(curves) + 1))
        axes.plot(times, curves[name], style, color=colour, linewidth=width, label=name, zorder=order)
