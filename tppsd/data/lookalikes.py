"""Checks of what only looks like a number or a timestamp: dates as integers, two formats or two units in one column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tppsd.data.arrow import Place, not_a_number
from tppsd.data.formats import NAIVE, parse
from tppsd.data.obstacles import DataError, quoted

SAMPLE = 1000  # rows by which formats are tried
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
    if types.is_floating(values.type):
        if not (np.isfinite(numbers).all() and (np.abs(numbers) < 2**53).all() and (numbers == np.rint(numbers)).all()):
            return None
        return numbers.astype(np.int64)
    return numbers.astype(np.int64)


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
