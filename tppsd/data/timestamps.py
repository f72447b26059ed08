"""Reading of time columns: numbers, or timestamps in UTC as int64 nanoseconds.

What only looks like one of them is refused: dates as integers, two formats or two units in one column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tppsd.data.arrow import EXACT, Place, first_null, first_true, not_a_number, plain, to_floats
from tppsd.data.obstacles import DataError, quoted
from tppsd.data.options import Context
from tppsd.data.sequence_table import BLOCK
from tppsd.data.units import EPOCH, ISO, NAIVE, NANOSECONDS, NUMBER, formats_of, parse, to_nanoseconds

DAYS = ("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%b %d, %Y", "%m/%d/%y",
        "%d/%m/%y", "%d.%m.%y")  # fmt: skip
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
# (what is written as digits, its format, smallest and largest value)
DIGITS = (
    ("YYYYMMDD", "%Y%m%d", 1800_01_01, 2199_12_31),
    ("YYYYMMDDHHMM", "%Y%m%d%H%M", 1800_01_01_00_00, 2199_12_31_23_59),
    ("YYYYMMDDHHMMSS", "%Y%m%d%H%M%S", 1800_01_01_00_00_00, 2199_12_31_23_59_59),
)
EPOCH_RANGE = (5e8, 4.2e9)  # seconds since 1970: 1985 to 2103
EPOCH_SCALES = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ZONE = r"\d(?:Z|z|[+-]\d{2}(?::?\d{2})?)$"  # after a clock: a date alone may end in -05


def check_numbers(values: Any, place: Place) -> None:
    """Refuse integers that are dates written as digits, and seconds since 1970 beside milliseconds.

    Raises:
        ValueError: with the option that reads them as what they are.
    """
    numbers = _whole_numbers(values)
    if numbers is None:
        return
    for words, name, low, high in DIGITS:
        if ((numbers >= low) & (numbers <= high)).all() and _are_digits_of(numbers, name):
            raise DataError(
                f"{place(0)} = {numbers[0]} looks like a date, {words}, and differences of such numbers are no times; "
                f"time_format: '{name}' reads it as a date, time_format: number as a number",
                time_format=name,
            )
    scales = {unit: _is_epoch(numbers, scale) for unit, scale in EPOCH_SCALES.items()}
    present = {unit: where for unit, where in scales.items() if where.any()}
    if len(present) > 1 and sum(where.sum() for where in present.values()) == len(numbers):
        first = next(unit for unit, where in present.items() if where[0])
        odd = int((~present[first]).argmax())
        other = next(unit for unit, where in present.items() if where[odd])
        raise DataError(
            f"{place(odd)} = {numbers[odd]} looks like {other} since 1970, but the rows before it are {first}, such as "
            f"{numbers[0]}; bring the column to one unit, or read it as it is with time_format: number"
        )


def describe_epoch(values: Any, place: Place, note: Callable[[str], None]) -> None:
    """Say that numbers may be Unix time, which `time_format` would read as timestamps."""
    numbers = _whole_numbers(values)
    if numbers is None:
        return
    unit = epoch_unit(numbers)
    if unit is not None:
        first, last = (np.datetime64(int(edge) // EPOCH_SCALES[unit], "s") for edge in (numbers.min(), numbers.max()))
        note(f"looks like {unit} since 1970, from {first} to {last}; time_format: {unit} reads it as timestamps")


def epoch_unit(numbers: np.ndarray) -> str | None:
    """Return s, ms, us or ns where all whole numbers may be that since 1970."""
    return next(
        (unit for unit, scale in EPOCH_SCALES.items() if len(numbers) and _is_epoch(numbers, scale).all()), None
    )


def _whole_numbers(values: Any) -> np.ndarray | None:
    """Return the values that are there as int64, if all are whole and there is one."""
    from pyarrow import types

    numbers = np.asarray(values.drop_null())
    if len(numbers) == 0 or types.is_uint64(values.type):
        return None
    blocks = np.split(numbers, range(BLOCK, len(numbers), BLOCK))
    if types.is_floating(values.type) and not all(map(_are_whole, blocks)):
        return None
    return numbers.astype(np.int64, copy=False)


def _are_whole(numbers: np.ndarray) -> bool:
    """Say whether floating-point numbers are finite, whole, and not beyond those that float64 holds exactly."""
    return bool((np.abs(numbers) < EXACT).all() and (numbers == np.rint(numbers)).all())


def _is_epoch(numbers: np.ndarray, scale: int) -> np.ndarray:
    return (numbers >= EPOCH_RANGE[0] * scale) & (numbers <= EPOCH_RANGE[1] * scale)


def _are_digits_of(numbers: np.ndarray, name: str) -> bool:
    return not np.isnat(parse(np.unique(numbers).astype(str).astype(object), name)).any()


def check_strings(
    values: Any, is_left: np.ndarray, place: Place, formats: Sequence[str], note: Callable[[str], None]
) -> None:
    """Judge a column of strings of which those in `is_left` were not read by `formats` (none: ISO 8601).

    Raises:
        ValueError: the first row that has another format, or no zone where others have one, is named.
    """
    texts = values.to_numpy(zero_copy_only=False)
    present = ~np.asarray(values.is_null())
    if not is_left.any():
        _check_zones(values, texts, place, note)
        return
    odd = int(is_left.argmax())
    if formats:
        names = " or ".join(map(repr, formats))
        raise DataError(
            f"{place(odd)} = {quoted(texts[odd])} is not in the format {names}; time_format may list several"
        )
    was_read = present & ~is_left
    candidates = _candidates(texts[is_left])
    if not candidates and not was_read.any():
        raise not_a_number(values, place)
    if not candidates:
        first = int(was_read.argmax())
        raise DataError(
            f"{place(odd)} = {quoted(texts[odd])} has another format than {quoted(texts[first])}, ISO 8601; "
            "mend the row, or list the formats with time_format"
        )
    _refuse_formats(texts, is_left, was_read, candidates, place)


def _refuse_formats(
    texts: np.ndarray, is_left: np.ndarray, was_read: np.ndarray, candidates: dict[str, np.ndarray], place: Place
) -> None:
    """Refuse formats beside ISO 8601: the best of them is offered if it reads every row, never taken."""
    rest = np.flatnonzero(is_left)
    best = max(candidates, key=lambda name: candidates[name].sum())
    equal = [name for name in candidates if candidates[name].sum() == candidates[best].sum()]
    first = int((is_left | was_read).argmax())
    reads_all = bool(candidates[best].all())
    named: Any = [best, "ISO8601"] if was_read.any() else best
    options = {"time_format": named} if reads_all and len(equal) == 1 else {}
    if len(equal) > 1:
        advice = f"say which with time_format: {' or '.join(map(repr, equal))}"
    elif reads_all:
        advice = f"time_format: {named!r} reads every row"
    else:
        unread = int(rest[int((~candidates[best]).argmax())])
        advice = f"{best!r} reads most rows, but not row {unread}, {quoted(texts[unread])}; "
        advice += "list all formats with time_format"
    if was_read.any():
        odd = int((was_read if is_left[first] else is_left).argmax())
        raise DataError(
            f"{place(odd)} = {quoted(texts[odd])} has another format than the rows before it, such as "
            f"{quoted(texts[first])}; day and month are not guessed: {advice}",
            **options,
        )
    raise DataError(
        f"{place(first)} = {quoted(texts[first])} is not ISO 8601; day and month are not guessed: {advice}", **options
    )


def _candidates(texts: np.ndarray) -> dict[str, np.ndarray]:
    """Return format -> bool (num_texts,), which it reads, of the common formats that read some of the first texts."""
    names = [day + clock for day in DAYS for clock in CLOCKS]
    viable = [name for name in names if not np.isnat(parse(texts[:1], name)).all()]
    return {name: ~np.isnat(parse(texts, name)) for name in viable}


def _check_zones(values: Any, texts: np.ndarray, place: Place, note: Callable[[str], None]) -> None:
    """Refuse a column in which some timestamps have a zone and others have none."""
    import pyarrow.compute as pc

    has_clock = np.asarray(pc.match_substring_regex(values, r"\d:?\d\d").fill_null(False))
    has_zone = np.asarray(pc.match_substring_regex(values, r"[T ]\d.*" + ZONE).fill_null(False))
    lacks = np.asarray(values.is_valid()) & ~has_zone & has_clock
    if has_zone.any() and lacks.any():
        first = bool(has_zone[int(np.asarray(values.is_valid()).argmax())])
        odd = int((lacks if first else has_zone).argmax())
        raise DataError(
            f"{place(odd)} = {quoted(texts[odd])} has {'no' if first else 'a'} zone, but the rows before it have "
            f"{'one' if first else 'none'}; time_format: ISO8601 reads those without one as UTC",
            time_format="ISO8601",
        )
    if not has_zone.any():
        note(NAIVE)


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
    exact = exact.cast("int64")
    ticks: np.ndarray = (exact.fill_null(np.iinfo(np.int64).min) if exact.null_count else exact).to_numpy()
    return ticks.view("datetime64[ns]")


def _from_epoch(values: Any, place: Place, unit: int, missing: bool) -> np.ndarray:
    """Read numbers of `unit` nanoseconds since 1970; integers stay exact."""
    from pyarrow import types

    _check_present(values, place, missing)
    is_null = np.asarray(values.is_null())
    numbers = np.array(values.fill_null(0))
    largest = (2**63 - 1) // unit
    if types.is_floating(values.type) and (i := first_true(~np.isfinite(numbers))) is not None:
        raise DataError(f"{place(i)} is {numbers[i]}; it must be a finite number")
    if (i := first_true((numbers > largest) | (numbers < -largest))) is not None:
        raise DataError(f"{place(i)} = {numbers[i]} is too far away for this time_format; {RANGE}")
    return np.where(is_null, np.iinfo(np.int64).min, to_nanoseconds(numbers, unit)).view("datetime64[ns]")


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
