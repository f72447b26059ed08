"""The window in which each sequence was observed: columns, one value for all, the end of the log, or intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tppsd.data.arrow import first_true
from tppsd.data.obstacles import DataError
from tppsd.data.options import LAST, ReadOptions
from tppsd.data.sequence_table import Pieces, SequenceTable, missing, no_ticks
from tppsd.data.units import Clock, to_text

EDGES = ("t_start", "t_end")


def columns_of_windows(options: ReadOptions, names: list[str]) -> ReadOptions:
    """Return the options where `t_end: closed_at` names a column of the table: that column is read."""
    for field in EDGES:
        value = getattr(options, field)
        if isinstance(value, str) and value != LAST and value in names:
            named: dict[str, Any] = {field: None, "columns": {**options.column_map, field: value}}
            options = replace(options, **named)
    return options


def with_window(table: SequenceTable, options: ReadOptions, clock: Clock, last: np.generic) -> SequenceTable:
    """Set the window of every sequence; data that have their own keep it, and both at once is an error.

    Args:
        table: the sequences.
        options: `t_start` and `t_end`.
        clock: of the times.
        last: the last time of the log, a tick: what `t_end: last` means.
    """
    edges: dict[str, Any] = {}
    for field in EDGES:
        value = getattr(options, field)
        if value is None:
            continue
        tick = last if field == "t_end" and value == LAST else clock.tick(value, field)
        if field in table.columns:
            raise ValueError(
                f"{table.source}: has a column {table.columns[field]} and the option {field} = {value} is given; "
                f"leave out the option, or the column with columns={{{field!r}: None}}"
            )
        edges[field] = np.full(len(table), tick, dtype=table.event_times.dtype)
    return replace(table, **edges)


def in_intervals(table: SequenceTable, observed: Sequence[Sequence[float | str]], clock: Clock) -> SequenceTable:
    """Cut every sequence into one window for each interval of observation; events outside of all are an error."""
    if "t_start" in table.columns or "t_end" in table.columns:
        raise DataError(
            f"{table.source}: has columns of windows; leave out observed, or them with columns={{'t_end': None}}"
        )
    pairs = [(clock.tick(a, "observed"), clock.tick(b, "observed")) for a, b in observed]
    starts = np.array([a for a, _ in pairs], dtype=table.event_times.dtype)
    ends = np.array([b for _, b in pairs], dtype=table.event_times.dtype)
    if not (starts < ends).all() or not (ends[:-1] <= starts[1:]).all():
        raise DataError(
            f"observed = {[list(pair) for pair in observed]} must be intervals in order of time that do not overlap"
        )
    outside = np.ones(len(table.event_times), dtype=bool)
    for a, b in pairs:
        outside &= (table.event_times < a) | (table.event_times > b)
    if (i := first_true(outside)) is not None:
        raise DataError(
            f"{table.event_place(i, 'time')} = {to_text(table.event_times[i])} lies in none of the intervals of "
            "observed"
        )
    parents = np.repeat(np.arange(len(table)), len(pairs))
    t_start, t_end = np.tile(starts, len(table)), np.tile(ends, len(table))
    # an event on the edge of two intervals belongs to the later one, as the boundary of two windows does
    is_last = np.tile(np.append(ends[:-1] < starts[1:], True), len(table))
    return table.cut(
        Pieces(
            parents,
            positions(table, parents, t_start, "left"),
            np.where(is_last, positions(table, parents, t_end, "right"), positions(table, parents, t_end, "left")),
            t_start,
            t_end,
        )
    )


def positions(table: SequenceTable, parents: np.ndarray, ticks: np.ndarray, side: str) -> np.ndarray:
    """Return where events before ("right": or at) ticks[i] end in `table.event_times`, int64, for sequence parents[i].

    All sequences are searched at once: the events are ordered by (sequence, time).
    """
    span = table.event_times
    order = np.lexsort(
        (
            np.concatenate([np.zeros(len(ticks)) + (0 if side == "left" else 2), np.ones(len(span))]),
            np.concatenate([ticks, span]),
            np.concatenate([parents, np.repeat(np.arange(len(table)), table.lengths)]),
        )
    )
    is_event = order >= len(ticks)
    before = np.cumsum(is_event)
    found = np.empty(len(ticks), dtype=np.int64)
    found[order[~is_event]] = before[~is_event]
    return found


def observed_from(table: SequenceTable) -> np.ndarray:
    """Return where each window starts, the first event without a t_start, ticks (num_sequences,)."""
    return _edge(table, table.t_start, 0)


def observed_until(table: SequenceTable) -> np.ndarray:
    """Return where each window ends, ticks (num_sequences,).

    That is the last event without a t_end, and the start if there is none.
    """
    ends = _edge(table, table.t_end, -1)
    return np.where(missing(ends), table.t_start, ends)


def _edge(table: SequenceTable, known: np.ndarray, which: int) -> np.ndarray:
    """Return `known`, and where it is missing the time of the first (0) or last (-1) event."""
    edge = no_ticks(table.event_times, len(table))
    has_events = table.lengths > 0
    at = table.offsets[:-1] if which == 0 else table.offsets[1:] - 1
    edge[has_events] = table.event_times[at[has_events]]
    return np.where(missing(known), edge, known)
