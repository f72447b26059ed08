"""Checks of a table's values; every message names the source, the row, the field, the value and what would be right."""

from __future__ import annotations

import numpy as np

from tppsd.data.obstacles import DataError
from tppsd.data.sequence_table import SequenceTable, missing
from tppsd.data.units import to_text


def check_values(table: SequenceTable) -> None:
    """Refuse the first value that no event sequence can have (marks: `tppsd.data.marks`).

    Raises:
        ValueError: there is one; the sentence names its place.
    """
    _check_event_times(table)
    _check_inter_times(table)
    _check_windows(table)


def _first(wrong: np.ndarray) -> int | None:
    return int(wrong.nonzero()[0][0]) if wrong.any() else None


def _check_event_times(table: SequenceTable) -> None:
    times = table.event_times
    if (i := _first(~np.isfinite(times))) is not None:
        raise ValueError(f"{table.event_place(i, 'time')} is {times[i]}; it must be a finite number")
    goes_back = np.zeros(len(times), dtype=bool)
    goes_back[1:] = times[1:] < times[:-1]
    goes_back[table.offsets[:-1][table.lengths > 0]] = False  # the first event of a sequence follows none
    if (i := _first(goes_back)) is not None:
        raise DataError(
            f"{table.event_place(i, 'time')} = {to_text(times[i])} comes before the event at {to_text(times[i - 1])}; "
            "the times of a sequence must not decrease: sort: true sorts them",
            sort=True,
        )


def _check_inter_times(table: SequenceTable) -> None:
    if table.inter_times is None:
        return
    if (i := _first(~(np.isfinite(table.inter_times) & (table.inter_times >= 0)))) is not None:
        raise ValueError(
            f"{table.event_place(i, 'inter_time')} = {table.inter_times[i]}; it must be a finite number of at least 0"
        )


def _check_windows(table: SequenceTable) -> None:
    lengths, t_start, t_end = table.lengths, table.t_start, table.t_end
    if (i := _first((lengths == 0) & missing(t_start))) is not None:
        raise ValueError(
            f"{table.sequence_place(i)}: the sequence has no events and no t_start; "
            "an empty sequence needs a t_start, or leave it out"
        )
    has_events = lengths > 0
    first, last = t_start.copy(), t_start.copy()  # comparisons with a missing edge are False
    first[has_events] = table.event_times[table.offsets[:-1][has_events]]
    last[has_events] = table.event_times[table.offsets[1:][has_events] - 1]
    if (i := _first(t_start > first)) is not None:
        raise ValueError(
            f"{table.sequence_place(i)}: t_start = {to_text(t_start[i])} is later than the first event at "
            f"{to_text(first[i])}; it must not be"
        )
    if (i := _first(t_end < last)) is not None:
        what = "last event" if lengths[i] else "t_start"
        raise ValueError(
            f"{table.sequence_place(i)}: t_end = {to_text(t_end[i])} is earlier than the {what} at {to_text(last[i])}; "
            "it must not be"
        )
