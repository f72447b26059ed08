"""The figure of a forecast: what is likely to come, by mark, with what has come where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tppsd.data.sequences import EventSequence
from tppsd.plots.style import (
    AUTOREGRESSIVE,
    FAINT,
    GRID,
    REAL,
    TEXT,
    label,
    legend_of,
    new_figure,
    plain,
    short_number,
    time_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tppsd.forecasting.forecast import Forecast

_FANS, _POINTS = 4, 160  # panels with a fan; points of a curve
_BANDS = ((0.025, 0.975), (0.1, 0.9), (0.25, 0.75))
_SHOWN_BARS = 16


def forecast_plot(forecast: Forecast, observed: Sequence[EventSequence] | None = None, history: int = 0) -> Figure:
    """Draw fans of cumulative counts of the most frequent sets of marks, the next time's density and the probabilities.

    Args:
        forecast: answers of `tppsd.forecast`; its declared questions are sampled if they have not been.
        observed: sequences that begin with the histories, one each, where it is known what happened: a line in steps.
        history: which of the histories to draw.
    """
    unit = getattr(getattr(forecast.target, "statistics", None), "time_unit", None)
    chance = forecast.probability()
    order = chance.value[history, :-1].argsort(descending=True).tolist()
    shown = [len(forecast.sets) - 1, *order[: _FANS - 1]]
    figure = new_figure(10.0, 5.6)
    grid = figure.add_gridspec(2, max(len(shown), 2))
    happened = None if observed is None else observed[history]
    for place, which in enumerate(shown):
        _fan(figure.add_subplot(grid[0, place]), forecast, which, history, happened, unit)
    half = max(len(shown), 2) // 2
    _next_time(figure.add_subplot(grid[1, :half]), forecast, history, unit)
    _bars(figure.add_subplot(grid[1, half:]), forecast, [*order[:_SHOWN_BARS], len(forecast.sets) - 1], history)
    name = forecast.histories[history].id
    named = f"history {history}" if name is None else str(name)
    figure.suptitle(f"{named}: forecast of {forecast.num_paths:,} paths", x=0.01, ha="left", fontsize=11, color=TEXT)
    return figure


def _fan(
    axes: Axes, forecast: Forecast, which: int, history: int, happened: EventSequence | None, unit: str | None
) -> None:
    """Draw quantile bands of the number of events since the history was observed."""
    from matplotlib.ticker import MaxNLocator

    own, start = forecast.sets[which], forecast.histories[history].window_end
    times = np.linspace(0.0, forecast.horizon, _POINTS)
    paths = range(history * forecast.num_paths, (history + 1) * forecast.num_paths)
    samples, members = forecast.paths, torch.tensor(own.marks)
    counts = np.stack([_counts(samples[i], start, members, times) for i in paths])
    for low, high in _BANDS:
        lower, upper = np.quantile(counts, [low, high], axis=0, method="nearest")
        axes.fill_between(times, lower, upper, color=AUTOREGRESSIVE, alpha=0.18, linewidth=0, step="post")
    axes.plot(times, counts.mean(0), color=AUTOREGRESSIVE, linewidth=1.6)
    if happened is not None:
        known = times[times <= max(happened.window_end - start, 0.0)]  # beyond, nobody has looked
        axes.step(known, _counts(happened, start, members, known), color=REAL, linewidth=1.4, where="post")
    label(axes, time_label("time ahead", unit), "events", own.label)
    axes.set_xlim(0, forecast.horizon)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))  # a hundredth of an event is next to none
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _counts(sequence: EventSequence, start: float, members: torch.Tensor, times: np.ndarray) -> np.ndarray:
    """Count the events of some marks in (start, start + time], for each time."""
    is_new = torch.isin(sequence.marks, members) & (sequence.event_times > start)
    own = (sequence.event_times[is_new] - start).numpy()
    return np.searchsorted(own, times, side="right")


def _next_time(axes: Axes, forecast: Forecast, history: int, unit: str | None) -> None:
    """Draw the density of the time until the next event, with its median and the half that lies around it."""
    from matplotlib.ticker import MaxNLocator

    found = forecast.next_time((0.01, 0.25, 0.5, 0.75, 0.98))
    _, low, middle, high, last = found.quantiles[history].tolist()
    times = np.linspace(last / 2000, last, 400)
    density = found.density(torch.from_numpy(times))[history].numpy()
    is_half = (times >= low) & (times <= high)
    axes.fill_between(times[is_half], density[is_half], color=AUTOREGRESSIVE, alpha=0.25, linewidth=0)
    axes.plot(times, density, color=AUTOREGRESSIVE, linewidth=1.6)
    axes.axvline(middle, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), label=f"median {short_number(middle)}")
    label(axes, time_label("time until the next event", unit), "density", "next event")
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.set_ylim(bottom=0)
    legend_of(axes, loc="upper right")


def _bars(axes: Axes, forecast: Forecast, which: list[int], history: int) -> None:
    """Draw the probabilities of an event before the horizon, with intervals of 95 %."""
    chance = forecast.probability()
    low, high = (end[history].clamp(0, 1) for end in chance.interval())
    for row, i in enumerate(which):
        value = float(chance.value[history, i].clamp(0, 1))
        axes.barh(row, 1.0, color=GRID, height=0.62)
        axes.barh(row, value, color=AUTOREGRESSIVE, height=0.62)
        axes.plot([float(low[i]), float(high[i])], [row, row], color=REAL, linewidth=2.0, solid_capstyle="butt")
        axes.text(1.02, row, f"{value:.1%}", va="center", fontsize=8.5, color=TEXT)
    unit = getattr(getattr(forecast.target, "statistics", None), "time_unit", None)
    within = f"{forecast.horizon:g} {unit}" if unit else f"{forecast.horizon:g}"
    label(axes, "probability", "", f"at least one event within {within}")
    axes.set_yticks(range(len(which)), [forecast.sets[i].label for i in which], fontsize=8.5, color=TEXT)
    axes.set_ylim(len(which) - 0.5, -0.5)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    plain(axes)
    axes.grid(False, axis="y")
