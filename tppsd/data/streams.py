"""Cutting of streams into consecutive windows, each with the events of a lookback before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tppsd.data.observation import observed_from, positions
from tppsd.data.obstacles import DataError
from tppsd.data.sequence_table import Pieces, SequenceTable, missing, no_ticks
from tppsd.data.splits import Segments

MOST_WINDOWS = 100  # per event: beyond, nearly all windows are empty


def into_windows(table: SequenceTable, segments: Segments, window: Any, lookback: Any) -> SequenceTable:
    """Tile each segment of a sequence with windows [start, start + window), the last one shorter.

    A boundary belongs to the later window, the end of a sequence to its last one. Windows without events are kept.
    Where a sequence has no t_start, its observation begins with its first event, which is given.

    Args:
        table: the streams.
        segments: what is to be tiled.
        window, lookback: differences of ticks; lookback None: nothing before a window is given.

    Raises:
        ValueError: the window is so short that there would be more than MOST_WINDOWS for each event.
    """
    counts = _num_windows(segments, window)
    if counts.sum() > MOST_WINDOWS * max(len(table.event_times), 1):
        raise DataError(
            f"{table.source}: windows of this length would be {int(counts.sum()):,} for {len(table.event_times):,} "
            "events; "
            "give a longer window"
        )
    which = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = segments.start[which] + number * window
    is_end = number == counts[which] - 1
    ends = np.where(is_end, segments.end[which], segments.start[which] + (number + 1) * window)
    parents, is_last = segments.parents[which], is_end & segments.is_last[which]
    tiles = Segments(parents, starts, ends, is_last)

    known, first = table.t_start[parents], observed_from(table)[parents]
    begins_with_event = missing(known)
    if lookback is None:
        t_start, is_cut = starts, (starts == first) & begins_with_event
        score_start = None
    else:
        reach = starts - lookback
        t_start = np.where(reach > first, reach, first)
        is_cut = (reach > first) | begins_with_event
        score_start = starts
    return table.cut(
        Pieces(
            parents,
            positions(table, parents, t_start, "left"),
            tiles.stops(table),
            t_start,
            np.where(is_last & missing(table.t_end[parents]), no_ticks(table.event_times, len(ends)), ends),
            score_start,
            is_cut,
        )
    )


def _num_windows(segments: Segments, window: Any) -> np.ndarray:
    """Return how many windows cover each segment, at least 1, int64 (num_segments,)."""
    length = segments.end - segments.start
    if length.dtype.kind == "m":
        nanoseconds = length.astype("timedelta64[ns]").astype(np.int64)
        counts = -(-nanoseconds // int(window.astype("timedelta64[ns]").astype(np.int64)))
    else:
        counts = np.ceil(length / window * (1 - 1e-12)).astype(
            np.int64
        )  # 0.3 / 0.1 is 3 windows, whatever it rounds to
    at_least_one: np.ndarray = np.maximum(counts, 1)
    return at_least_one
