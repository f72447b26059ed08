"""Splitting into training, validation and test, by shares or by time, and cutting of streams into windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tppsd.data.observation import observed_from, observed_until, positions
from tppsd.data.obstacles import DataError
from tppsd.data.sequence_table import Pieces, SequenceTable, missing, no_ticks
from tppsd.data.tables import SPLITS
from tppsd.data.units import to_text


def cut(num_sequences: int, fractions: Sequence[float], source: str) -> dict[str, tuple[int, int]]:
    """Return split -> (start, stop) of `num_sequences` sequences cut in order; none may be empty."""
    if (
        len(fractions) != 3
        or not all(0 < share < 1 for share in fractions)
        or not math.isclose(sum(fractions), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            f"fractions = {tuple(fractions)} must be three positive shares of train, validation and test that sum to 1"
        )
    edges = [0, *(round(num_sequences * share) for share in (fractions[0], fractions[0] + fractions[1])), num_sequences]
    splits = dict(zip(SPLITS, pairwise(edges), strict=True))
    for split, (start, stop) in splits.items():
        if start == stop:
            raise ValueError(
                f"{source}: fractions = {tuple(fractions)} of {num_sequences} sequences leave the {split} split empty; "
                "a split needs at least one"
            )
    return splits


@dataclass(frozen=True)
class Segments:
    """Holds the part of each sequence that a split scores: [start, end] of sequence `parents[i]`, start <= t < end.

    Attributes:
        parents: int64 (num_segments,).
        start, end: ticks (num_segments,).
        is_last: bool (num_segments,), the end is that of the sequence, and belongs to the segment.
    """

    parents: np.ndarray
    start: np.ndarray
    end: np.ndarray
    is_last: np.ndarray

    def stops(self, table: SequenceTable) -> np.ndarray:
        """Return where the events of each segment end in `table.event_times`, int64 (num_segments,)."""
        left = positions(table, self.parents, self.end, "left")
        return np.where(self.is_last, positions(table, self.parents, self.end, "right"), left)


def whole(table: SequenceTable) -> Segments:
    """Return every sequence as one segment."""
    everything = np.arange(len(table))
    return Segments(everything, observed_from(table), observed_until(table), np.ones(len(table), dtype=bool))


def by_time(table: SequenceTable, times: Sequence[Any]) -> dict[str, Segments]:
    """Return split -> what it scores of each sequence; sequences that it scores nothing of are left out.

    Args:
        table: the sequences.
        times: ticks, the start of validation and of test, or of training, validation and test.

    Raises:
        ValueError: the times are not in order, or a split is empty.
    """
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise DataError(f"split_times = {_shown(times)} must be in order of time")
    nowhere = no_ticks(table.event_times, 1)[0]
    lows = [times[0] if len(times) == 3 else nowhere, *times[-2:]]
    splits = {}
    for split, low, high in zip(SPLITS, lows, [*times[-2:], nowhere], strict=True):
        splits[split] = _between(table, low, high)
        if len(splits[split].parents) == 0:
            first, last = observed_from(table).min(), observed_until(table).max()
            raise DataError(
                f"{table.source}: split_times = {_shown(times)} leave the {split} split empty; "
                f"the data reach from {to_text(first)} to {to_text(last)}"
            )
    return splits


def _shown(times: Sequence[Any]) -> str:
    return ", ".join(map(to_text, times))


def _between(table: SequenceTable, low: Any, high: Any) -> Segments:
    """Return what lies in low <= t < high of each sequence; a missing edge is none."""
    first, last = observed_from(table), observed_until(table)
    lows, highs = (np.full(len(table), edge, dtype=first.dtype) for edge in (low, high))
    start = np.where(missing(lows) | (first > lows), first, lows)
    is_last = missing(highs) | (last < highs)
    segments = Segments(np.arange(len(table)), start, np.where(is_last, last, highs), is_last)
    num_events = segments.stops(table) - positions(table, segments.parents, start, "left")
    kept = (start < segments.end) | ((start == segments.end) & (num_events > 0))
    return Segments(segments.parents[kept], start[kept], segments.end[kept], is_last[kept])


def with_history(table: SequenceTable, segments: Segments) -> SequenceTable:
    """Return sequences that are scored on their segment; all that came before is given."""
    t_start, t_end = table.t_start[segments.parents], table.t_end[segments.parents]
    is_later = segments.start > observed_from(table)[segments.parents]
    nothing = no_ticks(table.event_times, len(is_later))
    pieces = Pieces(
        segments.parents,
        table.offsets[:-1][segments.parents],
        segments.stops(table),
        t_start,
        np.where(segments.is_last, t_end, segments.end),
        np.where(is_later, segments.start, nothing) if is_later.any() else None,
    )
    return table.cut(pieces)


def by_fractions(table: SequenceTable, fractions: Sequence[float]) -> dict[str, SequenceTable]:
    """Return split -> its share of the sequences, in order."""
    return {split: table.part(*edges) for split, edges in cut(len(table), fractions, table.source).items()}


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
            "events; give a longer window"
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
        # 0.3 / 0.1 is 3 windows, whatever it rounds to
        counts = np.ceil(length / window * (1 - 1e-12)).astype(np.int64)
    at_least_one: np.ndarray = np.maximum(counts, 1)
    return at_least_one
