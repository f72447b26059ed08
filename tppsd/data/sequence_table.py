"""The events of one table in flat form, before they become sequences, and checks of their values.

It is one layout for every file format; a message names the source, the row, the field, the value and what would be
right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tppsd.data.arrow import first_true
from tppsd.data.obstacles import DataError, quoted
from tppsd.data.units import to_text

BLOCK = 2**18  # events that are looked at together where all are: what that takes beside the events themselves


def block_edges(offsets: np.ndarray, num_events: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of all sequences in order, of at most `num_events` sequences and events, or of one sequence.

    What is computed of each block in turn takes no memory that grows with the data.

    Args:
        offsets: int64 (num_sequences + 1,), as of `SequenceTable`.
        num_events: of a block.
    """
    start, num = 0, len(offsets) - 1
    while start < num:
        stop = int(np.searchsorted(offsets, offsets[start] + num_events, side="right")) - 1
        stop = min(max(stop, start + 1), start + num_events, num)
        yield start, stop
        start = stop


@dataclass(frozen=True)
class Vocabulary:
    """Holds what a canonical file says of its values: names of the marks, unit and origin of the times.

    None: it says nothing.
    """

    mark_names: tuple[str, ...] | None = None
    time_unit: str | None = None
    time_origin: str | None = None


@dataclass(frozen=True)
class SequenceTable:
    """Holds sequences one after the other.

    Times are *ticks* (`tppsd.data.units.Clock`): float64, or datetime64[ns] in UTC.

    Attributes:
        source: file or split, for messages.
        columns: field -> name of its column.
        event_times: ticks (num_events,).
        marks: Arrow array (num_events,) of int64 or strings, or None for unmarked events.
        offsets: int64 (num_sequences + 1,); sequence i holds the events offsets[i]:offsets[i+1].
        inter_times: float64 (num_events,), or None.
        t_start, t_end: ticks (num_sequences,) with NaN or NaT where there is none.
        num_marks: declared size of the mark vocabulary, or None.
        rows: row in the source of each sequence (if `one_row_each`) or of each event; a range takes no memory.
        one_row_each: every sequence is one row of the source, with lists; else every event is.
        sequence_ids: the ids, (num_sequences,), or None where there are none.
        skipped: int64 (num_sequences,), events of the source's sequence before this one's first; None: 0.
        score_start: ticks (num_sequences,), where scoring begins, with NaN or NaT where all is scored (None: of all).
        is_cut: bool (num_sequences,), t_start is the edge of a lookback, before which there may be events (None: of
            none).
        num_duplicates: rows that are equal to an earlier one in all columns (before any were dropped).
        own: what the source says of its marks and times.
    """

    source: str
    columns: dict[str, str]
    event_times: np.ndarray
    marks: Any
    offsets: np.ndarray
    inter_times: np.ndarray | None
    t_start: np.ndarray
    t_end: np.ndarray
    num_marks: int | None
    rows: np.ndarray | range
    one_row_each: bool
    sequence_ids: np.ndarray | None = None
    skipped: np.ndarray | None = None
    score_start: np.ndarray = None  # type: ignore[assignment]
    is_cut: np.ndarray = None  # type: ignore[assignment]
    num_duplicates: int = 0
    own: Vocabulary | None = None

    def __post_init__(self) -> None:
        if self.score_start is None:
            object.__setattr__(self, "score_start", no_ticks(self.event_times, len(self)))
        if self.is_cut is None:
            object.__setattr__(self, "is_cut", np.zeros(len(self), dtype=bool))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of events of each sequence, int64 (num_sequences,)."""
        return np.diff(self.offsets)

    @property
    def ids(self) -> list[Any]:
        """The id of each sequence, None where it has none."""
        return [None] * len(self) if self.sequence_ids is None else self.sequence_ids.tolist()

    @property
    def has_dates(self) -> bool:
        """Whether times are timestamps."""
        return self.event_times.dtype.kind == "M"

    def sequence_place(self, sequence: int) -> str:
        """Return where a sequence stands, to begin a message with."""
        if self.one_row_each or self.sequence_ids is None:
            return f"{self.source}, row {self.rows[sequence]}"
        return f"{self.source}, sequence {quoted(self.sequence_ids[sequence])}"

    def event_place(self, event: int, field: str) -> str:
        """Return where the value of `field` of an event stands, to begin a message with."""
        sequence = int(np.searchsorted(self.offsets, event, side="right")) - 1
        if self.one_row_each:
            position = event - self.offsets[sequence] + (0 if self.skipped is None else self.skipped[sequence])
            return f"{self.sequence_place(sequence)}: {self.columns[field]}[{position}]"
        name = None if self.sequence_ids is None else self.sequence_ids[sequence]
        of = "" if name is None else f" (sequence {quoted(name)})"
        return f"{self.source}, row {self.rows[event]}{of}: {self.columns[field]}"

    def part(self, start: int, stop: int) -> SequenceTable:
        """Return the sequences start:stop, on the memory of this table."""
        own, first = slice(start, stop), int(self.offsets[start])
        events = slice(first, int(self.offsets[stop]))
        return replace(
            self,
            event_times=self.event_times[events],
            marks=None if self.marks is None else self.marks[events],
            offsets=self.offsets[start : stop + 1] - first,
            inter_times=None if self.inter_times is None else self.inter_times[events],
            t_start=self.t_start[own],
            t_end=self.t_end[own],
            rows=self.rows[own if self.one_row_each else events],
            sequence_ids=None if self.sequence_ids is None else self.sequence_ids[own],
            skipped=None if self.skipped is None else self.skipped[own],
            score_start=self.score_start[own],
            is_cut=self.is_cut[own],
        )

    def blocks(self) -> Iterator[SequenceTable]:
        """Yield all sequences in order, in parts on the memory of this table: see `block_edges`."""
        for edges in block_edges(self.offsets):
            yield self.part(*edges)

    def cut(self, pieces: Pieces) -> SequenceTable:
        """Return new sequences, each of consecutive events of one sequence of this table.

        Pieces may overlap or be empty.
        """
        lengths = pieces.stops - pieces.starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        events = np.arange(offsets[-1]) + np.repeat(pieces.starts - offsets[:-1], lengths)
        skipped = pieces.starts - self.offsets[pieces.parents]
        rows = np.arange(self.rows.start, self.rows.stop) if isinstance(self.rows, range) else self.rows
        return replace(
            self,
            event_times=self.event_times[events],
            marks=None if self.marks is None else self.marks.take(events),
            offsets=offsets,
            inter_times=None if self.inter_times is None else self.inter_times[events],
            t_start=pieces.t_start,
            t_end=pieces.t_end,
            rows=rows[pieces.parents if self.one_row_each else events],
            sequence_ids=None if self.sequence_ids is None else self.sequence_ids[pieces.parents],
            skipped=skipped if self.skipped is None else skipped + self.skipped[pieces.parents],
            score_start=pieces.score_start,  # type: ignore[arg-type]  # None becomes an array
            is_cut=pieces.is_cut,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Pieces:
    """Says where a table is cut: piece i holds the events starts[i]:stops[i] of the sequence parents[i].

    Attributes:
        parents, starts, stops: int64 (num_pieces,); starts and stops count the events of the whole table.
        t_start, t_end: ticks (num_pieces,), the window of each piece.
        score_start: ticks (num_pieces,), or None where nothing is given.
        is_cut: bool (num_pieces,), or None: see `SequenceTable`.
    """

    parents: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    t_start: np.ndarray
    t_end: np.ndarray
    score_start: np.ndarray | None = None
    is_cut: np.ndarray | None = None


def missing(ticks: np.ndarray) -> np.ndarray:
    """Say where a tick stands for no time."""
    is_missing: np.ndarray = np.isnat(ticks) if ticks.dtype.kind == "M" else np.isnan(ticks)
    return is_missing


def no_ticks(like: np.ndarray, length: int) -> np.ndarray:
    """Return ticks (length,) of the kind of `like` that stand for no time."""
    return np.full(length, np.datetime64("NaT", "ns")) if like.dtype.kind == "M" else np.full(length, np.nan)


def check_values(table: SequenceTable) -> None:
    """Refuse the first value that no event sequence can have (marks: `tppsd.data.marks`).

    Raises:
        ValueError: there is one; the sentence names its place.
    """
    for check in (_check_finite, _check_order, _check_inter_times):
        for block in table.blocks():
            check(block)
    _check_windows(table)


def _check_finite(table: SequenceTable) -> None:
    times = table.event_times
    if (i := first_true(~np.isfinite(times))) is not None:
        raise ValueError(f"{table.event_place(i, 'time')} is {times[i]}; it must be a finite number")


def _check_order(table: SequenceTable) -> None:
    times = table.event_times
    goes_back = np.zeros(len(times), dtype=bool)
    goes_back[1:] = times[1:] < times[:-1]
    goes_back[table.offsets[:-1][table.lengths > 0]] = False  # the first event of a sequence follows none
    if (i := first_true(goes_back)) is not None:
        raise DataError(
            f"{table.event_place(i, 'time')} = {to_text(times[i])} comes before the event at {to_text(times[i - 1])}; "
            "the times of a sequence must not decrease: sort: true sorts them",
            sort=True,
        )


def _check_inter_times(table: SequenceTable) -> None:
    if table.inter_times is None:
        return
    if (i := first_true(~(np.isfinite(table.inter_times) & (table.inter_times >= 0)))) is not None:
        raise ValueError(
            f"{table.event_place(i, 'inter_time')} = {table.inter_times[i]}; it must be a finite number of at least 0"
        )


def _check_windows(table: SequenceTable) -> None:
    lengths, t_start, t_end = table.lengths, table.t_start, table.t_end
    if (i := first_true((lengths == 0) & missing(t_start))) is not None:
        raise ValueError(
            f"{table.sequence_place(i)}: the sequence has no events and no t_start; "
            "an empty sequence needs a t_start, or leave it out"
        )
    has_events = lengths > 0
    first, last = t_start.copy(), t_start.copy()  # comparisons with a missing edge are False
    first[has_events] = table.event_times[table.offsets[:-1][has_events]]
    last[has_events] = table.event_times[table.offsets[1:][has_events] - 1]
    if (i := first_true(t_start > first)) is not None:
        raise ValueError(
            f"{table.sequence_place(i)}: t_start = {to_text(t_start[i])} is later than the first event at "
            f"{to_text(first[i])}; it must not be"
        )
    if (i := first_true(t_end < last)) is not None:
        what = "last event" if lengths[i] else "t_start"
        raise ValueError(
            f"{table.sequence_place(i)}: t_end = {to_text(t_end[i])} is earlier than the {what} at {to_text(last[i])}; "
            "it must not be"
        )
