"""Reading of time columns: numbers, or timestamps in UTC as int64 nanoseconds.

What only looks like one of them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tppsd.data.arrow import Place, first_null, plain, to_floats
from tppsd.data.formats import EPOCH, ISO, NAIVE, NUMBER, formats_of, parse
from tppsd.data.lookalikes import check_numbers, check_strings, describe_epoch
from tppsd.data.obstacles import DataError
from tppsd.data.options import Context
from tppsd.data.units import NANOSECONDS

RANGE = "timestamps are held in nanoseconds, from 1677-09-21 to 2262-04-11"

Note = Callable[[str], None]
Formats = Sequence[str]


def read_ticks(values: Any, place: Place, formats: Formats, note: Note, missing: bool = False) -> np.ndarray:
    """Return a time column as float64 numbers or datetime64[ns] in UTC.

    Args:
        values: Arrow array of numbers, timestamps, dates or strings.
        place: position of a value -> words that say where it stands.
        formats: the option `time_format` (`formats_of`).
        note: is told what was taken for granted.
        missing: a missing value becomes NaN or NaT instead of an error.

    Raises:
        ValueError: a value is missing, no time, or looks like something else; the message names the first such row.
    """
    from pyarrow import types

    values = plain(values)
    kind = values.type
    is_number = types.is_integer(kind) or types.is_floating(kind)
    if types.is_timestamp(kind) or types.is_date(kind):
        return _from_timestamps(values, place, note, missing)
    if is_number and not formats:
        check_numbers(values, place)
        describe_epoch(values, place, note)
    if types.is_string(kind) or types.is_large_string(kind):
        return _from_strings(values.cast("string"), place, formats, note, missing)
    if is_number and formats and formats[0] in EPOCH:
        return _from_epoch(values, place, NANOSECONDS[formats[0]], missing)
    if types.is_integer(kind) and formats and formats[0] != NUMBER:
        return _from_strings(values.cast("string"), place, formats, note, missing)
    return to_floats(values, place, np.nan if missing else None)


def read_time_column(values: Any, place: Place, context: Context, note: Note) -> np.ndarray:
    """Read a time column with the option `time_format`.

    Where an obstacle names the format that reads the column, it is noted, and reading goes on with that format.
    """
    try:
        return read_ticks(values, place, context.options.formats, note)
    except DataError as error:
        if "time_format" not in error.options:
            raise
        context.obstacles.add(error)
        return read_ticks(values, place, formats_of(error.options["time_format"]), note)


def _check_present(values: Any, place: Place, missing: bool) -> None:
    if values.null_count and not missing:
        raise DataError(f"{place(first_null(values))} is missing; it must be a time")


def _from_timestamps(values: Any, place: Place, note: Note, missing: bool) -> np.ndarray:
    """Read Arrow timestamps, which with a zone are stored in UTC, and dates, which are midnights."""
    import pyarrow
    from pyarrow import types

    _check_present(values, place, missing)
    if types.is_timestamp(values.type) and values.type.tz is None:
        note(NAIVE)
    zone = getattr(values.type, "tz", None)
    try:
        exact = values.cast(pyarrow.timestamp("ns", zone))
    except pyarrow.ArrowInvalid as error:
        seconds = np.array(values.cast(pyarrow.timestamp("s", zone)).cast("int64").fill_null(0))
        i = int((np.abs(seconds) > 2**63 // 10**9).argmax())
        raise DataError(f"{place(i)} = {np.datetime64(int(seconds[i]), 's')} is too far away; {RANGE}") from error
    return np.array(exact.cast("int64").fill_null(np.iinfo(np.int64).min)).view("datetime64[ns]")


def _from_epoch(values: Any, place: Place, unit: int, missing: bool) -> np.ndarray:
    """Read numbers of `unit` nanoseconds since 1970; integers stay exact."""
    from pyarrow import types

    _check_present(values, place, missing)
    is_null = np.asarray(values.is_null())
    numbers = np.array(values.fill_null(0))
    largest = (2**63 - 1) // unit
    if types.is_floating(values.type) and not np.isfinite(numbers).all():
        i = int((~np.isfinite(numbers)).argmax())
        raise DataError(f"{place(i)} is {numbers[i]}; it must be a finite number")
    too_far = (numbers > largest) | (numbers < -largest)
    if too_far.any():
        i = int(too_far.argmax())
        raise DataError(f"{place(i)} = {numbers[i]} is too far away for this time_format; {RANGE}")
    whole = np.floor(numbers).astype(np.int64)
    nanoseconds = whole * unit + np.rint((numbers - whole) * unit).astype(np.int64)
    return np.where(is_null, np.iinfo(np.int64).min, nanoseconds).view("datetime64[ns]")


def _from_strings(values: Any, place: Place, formats: Formats, note: Note, missing: bool) -> np.ndarray:
    """Read ISO 8601, or the formats that were named: each value is read by the first that fits."""
    if formats and formats[0] in (*EPOCH, NUMBER):
        return to_floats(values, place, np.nan if missing else None)  # says which value is no number
    _check_present(values, place, missing)
    texts = values.to_numpy(zero_copy_only=False)
    ticks = np.full(len(texts), np.datetime64("NaT", "ns"))
    is_left = ~np.asarray(values.is_null())
    for name in formats or (ISO,):
        ticks[is_left] = parse(texts[is_left], name)
        is_left &= np.isnat(ticks)
    if is_left.any() or not formats:
        check_strings(values, is_left, place, formats, note)
    return ticks
