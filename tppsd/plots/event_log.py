"""Pictures of a log of events, before anything is trained: events, inter-times, marks, and rates over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tppsd.data.facts import LogFacts
from tppsd.data.observation import observed_from, observed_until
from tppsd.plots.style import FAINT, GRID, MARKS, OTHERS, REAL, label, legend_of, new_figure, time_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT_COLOURS = dict(zip(("train", "validation", "test"), (REAL, OTHERS[0], OTHERS[1]), strict=True))
RASTER_ROWS, RASTER_EVENTS = 24, 4000  # sequences and events that a raster draws
SHOWN_MARKS = 15
TIME_BINS, GAP_BINS = 80, 60
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def event_raster(facts: LogFacts) -> Figure:
    """Draw the first sequences of the training split, a row each, on lines as long as their windows.

    Given events are faint.
    """
    own, clock = facts.train, facts.log.clock
    within = int(np.searchsorted(own.table.offsets[1:], RASTER_EVENTS))
    num_rows = max(1, min(RASTER_ROWS, len(own.table), within + 1))
    start = clock.times(observed_from(own.table)[:num_rows])
    stop = clock.times(observed_until(own.table)[:num_rows])
    times = clock.times(own.table.event_times)
    figure = new_figure(9.0, 1.2 + 0.2 * num_rows)
    axes = figure.subplots()
    colours = _mark_colours(facts)
    for row in range(num_rows):
        events = slice(int(own.table.offsets[row]), int(own.table.offsets[row + 1]))
        axes.hlines(row, 0, stop[row] - start[row], color=GRID, linewidth=1, zorder=1)
        shown = [
            colours[k] if scored else FAINT for k, scored in zip(own.marks[events], own.is_scored[events], strict=True)
        ]
        axes.vlines(times[events] - start[row], row - 0.36, row + 0.36, colors=shown, linewidth=1.0, zorder=2)
    label(
        axes,
        time_label("time since the start of the window", clock.unit),
        "",
        f"first {num_rows} sequences of training",
    )
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.set_yticks([])
    axes.grid(False)
    return figure


def gap_histogram(facts: LogFacts) -> Figure:
    """Draw scored inter-times on a logarithmic axis, as densities per decade, one line per split.

    Ties are counted in the title.
    """
    figure = new_figure(5.4, 3.4)
    axes = figure.subplots()
    positive = {split: own.scored_gaps[own.scored_gaps > 0] for split, own in facts.splits.items()}
    every = np.concatenate(list(positive.values()))
    if len(every):
        low, high = float(every.min()), float(every.max())
        edges = np.geomspace(low, high if high > low else 2 * low, GAP_BINS + 1)
        decades = np.diff(np.log10(edges))
        for split, gaps in positive.items():
            heights = np.histogram(gaps, edges)[0] / max(len(gaps), 1) / decades
            axes.stairs(heights, edges, color=SPLIT_COLOURS[split], linewidth=1.4, label=split)
        axes.set_xscale("log")
        legend_of(axes)
    ties = sum(own.num_ties for own in facts.splits.values())
    label(
        axes,
        time_label("inter-time", facts.log.clock.unit),
        "density per decade",
        f"{ties:,} ties are not shown" if ties else "no ties",
    )
    return figure


def mark_frequencies(facts: LogFacts) -> Figure:
    """Draw the share of each mark among the scored events, beside each other for the splits.

    They are the commonest marks of training.
    """
    shown = _commonest(facts)
    figure = new_figure(5.4, 0.9 + 0.26 * max(len(shown), 4))
    axes = figure.subplots()
    height = 0.8 / len(facts.splits)
    for i, (split, own) in enumerate(facts.splits.items()):
        counts = own.mark_counts(facts.log.vocabulary.num_marks)
        places = np.arange(len(shown)) + (i - (len(facts.splits) - 1) / 2) * height
        axes.barh(places, counts[shown] / max(counts.sum(), 1), height, color=SPLIT_COLOURS[split], label=split)
    axes.set_yticks(range(len(shown)), [_short(facts.mark_name(mark)) for mark in shown])
    axes.invert_yaxis()
    label(axes, "share of events", "", _of_all(facts, shown))
    legend_of(axes)
    return figure


def mark_transitions(facts: LogFacts) -> Figure:
    """Draw which mark follows which within a sequence, in the training split: each row sums to 1 over all marks."""
    shown = _commonest(facts)
    counts = facts.train.transitions(facts.log.vocabulary.num_marks)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.26 * max(len(shown), 5)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    names = [_short(facts.mark_name(mark)) for mark in shown]
    from matplotlib.colors import to_rgba

    cells = np.empty((len(shown), len(shown), 4))
    cells[:] = to_rgba(OTHERS[3])
    cells[..., 3] = shares[np.ix_(shown, shown)]  # the more frequent, the more opaque: readable on light and dark
    axes.imshow(cells, aspect="auto")
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(shown)), names)
    label(axes, "next mark", "mark", _of_all(facts, shown))
    axes.grid(False)
    return figure


def rate_over_time(facts: LogFacts) -> Figure:
    """Draw events per unit of time, of the whole log; splits by time are marked by their colours."""
    figure = new_figure(9.0, 3.0)
    axes = figure.subplots()
    times = {split: own.table.event_times[own.is_scored] for split, own in facts.splits.items()}
    clock, every = facts.log.clock, np.concatenate(list(times.values()))
    numbers = clock.times(every)
    low, high = (float(numbers.min()), float(numbers.max())) if len(every) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, TIME_BINS + 1)
    places = edges
    if clock.has_dates:
        import matplotlib.dates

        dates: Any = matplotlib.dates  # untyped
        places = dates.date2num(clock.stamps(edges))
        locator = dates.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    for split, ticks in times.items():
        rates = np.histogram(clock.times(ticks), edges)[0] / np.diff(edges)
        axes.stairs(rates, places, color=SPLIT_COLOURS[split], linewidth=1.4, label=split)
    label(axes, "date (UTC)" if clock.has_dates else time_label("time", clock.unit), _per_unit(facts), "scored events")
    legend_of(axes)
    return figure


def rate_by_hour_and_weekday(facts: LogFacts) -> Figure | None:
    """Draw the shares of the scored events by hour of the day and by day of the week (UTC).

    None without timestamps or without scored events.
    """
    if not facts.log.clock.has_dates or not any(own.num_scored for own in facts.splits.values()):
        return None
    ticks = np.concatenate([own.table.event_times[own.is_scored] for own in facts.splits.values()])
    hours = ticks.astype("datetime64[h]").astype(np.int64)
    figure = new_figure(9.0, 2.8)
    left, right = figure.subplots(1, 2, width_ratios=(24, 9))
    left.bar(range(24), np.bincount(hours % 24, minlength=24) / len(ticks), color=REAL, width=0.8)
    label(left, "hour of the day (UTC)", "share of events", "")
    left.set_xticks(range(0, 24, 3))
    weekdays = (hours // 24 + 3) % 7  # 1970-01-01 was a Thursday
    right.bar(range(7), np.bincount(weekdays, minlength=7) / len(ticks), color=REAL, width=0.8)
    right.set_xticks(range(7), WEEKDAYS)
    label(right, "day of the week (UTC)", "", "")
    return figure


def _commonest(facts: LogFacts) -> list[int]:
    """At most SHOWN_MARKS marks, the commonest of training first."""
    order = np.argsort(-facts.train.mark_counts(facts.log.vocabulary.num_marks), kind="stable")
    return [int(mark) for mark in order[:SHOWN_MARKS]]


def _mark_colours(facts: LogFacts) -> list[str]:
    """Return a colour per mark; the commonest have one of their own, the others share one."""
    num_marks = facts.log.vocabulary.num_marks
    if num_marks == 1:
        return [REAL]
    colours = [FAINT] * num_marks
    for mark, colour in zip(_commonest(facts), MARKS, strict=False):
        colours[mark] = colour
    return colours


def _of_all(facts: LogFacts, shown: list[int]) -> str:
    num_marks = facts.log.vocabulary.num_marks
    return f"the {len(shown)} commonest of {num_marks} marks" if len(shown) < num_marks else f"{num_marks} marks"


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _per_unit(facts: LogFacts) -> str:
    return f"events per {facts.log.clock.unit}" if facts.log.clock.unit else "events per unit of time"
