"""The clock of a source: its unit and origin, from its timestamps and the options; and its inter-times."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tppsd.data.obstacles import DataError
from tppsd.data.options import ReadOptions
from tppsd.data.sequence_table import SequenceTable, missing
from tppsd.data.units import NANOSECONDS, Clock, fitting_unit, known_unit, parse_timestamp

ROUNDING = 4 * np.finfo(np.float64).eps  # relative to the time: how far a given inter-time may lie from the difference


def clock_of(tables: Collection[SequenceTable], options: ReadOptions) -> Clock:
    """Return unit and origin of the times of all tables of a source.

    Of timestamps the unit is `time_unit`, or the largest in which the median positive inter-time is at least 1; the
    origin is `origin`, or the midnight (UTC) before the first time. Numbers are taken as they are.

    Raises:
        ValueError: some tables have timestamps and others numbers, or an option does not go with the times.
    """
    dated = [table for table in tables if table.has_dates]
    if not dated:
        if options.origin is not None:
            raise DataError(
                f"origin = {options.origin} is for timestamps, and the times are numbers; say with time_format how "
                "they count"
            )
        return Clock(options.time_unit or _own(tables, "time_unit"))
    if len(dated) < len(tables):
        plain = next(table for table in tables if not table.has_dates)
        raise DataError(
            f"{plain.source}: {plain.columns['time']} holds numbers, but that of {dated[0].source} timestamps; "
            "all tables of a data set must have the same kind of times"
        )
    unit = known_unit(options.time_unit or _own(tables, "time_unit"))
    if options.time_unit is not None and unit is None:
        raise DataError(f"time_unit = {options.time_unit!r} must be one of {', '.join(NANOSECONDS)} for timestamps")
    gaps = np.concatenate([_gaps(table) for table in dated])
    earliest = min(
        ticks[~missing(ticks)].min()
        for table in dated
        for ticks in (table.event_times, table.t_start)
        if not missing(ticks).all()
    )
    midnight = earliest.astype("datetime64[D]").astype("datetime64[ns]")
    said = options.origin or _own(tables, "time_origin")
    origin = midnight if said is None else parse_timestamp(said, "origin")
    return Clock(unit or fitting_unit(gaps), origin)


def _own(tables: Collection[SequenceTable], name: str) -> str | None:
    """Return what the first table that says anything says of the unit or the origin."""
    said = (getattr(table.own, name) for table in tables if table.own is not None)
    return next((value for value in said if value is not None), None)


def _gaps(table: SequenceTable) -> np.ndarray:
    """Return nanoseconds between consecutive events of the same sequence, int64."""
    gaps = np.diff(table.event_times).astype("timedelta64[ns]").astype(np.int64)
    is_first = np.zeros(len(table.event_times) + 1, dtype=bool)
    is_first[table.offsets[:-1]] = True
    return gaps[~is_first[1:-1]]


def inter_times(table: SequenceTable, clock: Clock) -> np.ndarray:
    """Return the inter-times, float64 (num_events,).

    They are differences of the times or, where it agrees with them up to rounding, the finer value of the data. Of
    timestamps they are exact.
    """
    times, has_events = table.event_times, table.lengths > 0
    first = table.offsets[:-1][has_events]
    differences = np.diff(times, prepend=times[:1])
    differences[first] = times[first] - table.t_start[has_events]
    exact: np.ndarray = np.nan_to_num(clock.durations(differences))  # NaN: a first event without a t_start
    if table.inter_times is None:
        return exact
    agrees = np.abs(table.inter_times - exact) <= ROUNDING * np.abs(times)
    return np.where(agrees, table.inter_times, exact)
