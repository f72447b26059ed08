"""Units and formats of time: durations such as "7d", the unit that fits a log, formats of timestamps, and the clock."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tppsd.data.obstacles import DataError

ISO = "ISO8601"
NUMBER = "number"
EPOCH = ("s", "ms", "us", "ns")  # numbers since 1970 in this unit
NAIVE = "has timestamps without a zone; they are read as UTC"


def formats_of(time_format: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the option `time_format` as a tuple; empty where nothing is said.

    Raises:
        ValueError: a name that is no format, or one that goes with no other.
    """
    formats = (time_format,) if isinstance(time_format, str) else tuple(time_format or ())
    for name in formats:
        if name not in (*EPOCH, NUMBER, ISO) and "%" not in name:
            raise DataError(
                f"time_format = {name!r} must be one of {', '.join(EPOCH)} (numbers since 1970), {NUMBER}, {ISO}, "
                "or a format such as '%d/%m/%Y %H:%M'"
            )
        if len(formats) > 1 and name in (*EPOCH, NUMBER):
            raise DataError(f"time_format = {name!r} is for a whole column and goes with no other format")
    return formats


def parse(texts: np.ndarray, name: str) -> np.ndarray:
    """Return datetime64[ns] in UTC of strings in one format, NaT where one does not fit."""
    import pandas

    parsed = pandas.to_datetime(pandas.Series(texts, dtype=object), format=name, utc=True, errors="coerce")
    unit = parsed.dt.unit
    if unit == "ns":
        ticks: np.ndarray = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
        return ticks
    stamps = parsed.dt.tz_localize(None).to_numpy()
    inside = np.abs(stamps.astype(f"datetime64[{unit}]").astype(np.int64)) < 2**63 // int(
        np.timedelta64(1, unit) / np.timedelta64(1, "ns")
    )
    return np.where(inside, stamps, np.datetime64("NaT")).astype("datetime64[ns]")


NANOSECONDS = {  # length of each unit
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
WEEK = 7 * NANOSECONDS["d"]
_LAST_TICK = 2.0**63 - 2**12  # nanoseconds since 1970: short of the end of int64 by more than float64 rounds there
NAMES = {  # other names of a unit, without the plural's s
    "nanosecond": "ns",
    "microsecond": "us",
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "minute": "min",
    "hr": "h",
    "hour": "h",
    "day": "d",
}
PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
DURATION_HINT = "a number of units of time, or a duration such as 12h, 7d or 2w"


def to_nanoseconds(numbers: np.ndarray, length: int) -> np.ndarray:
    """Return numbers of units that are `length` nanoseconds long in nanoseconds, int64.

    Whole units and fractions are converted apart: integers stay exact, and years lose only what floats have lost.
    """
    whole = np.floor(numbers).astype(np.int64)
    nanoseconds: np.ndarray = whole * length + np.rint((numbers - whole) * length).astype(np.int64)
    return nanoseconds


def known_unit(name: str | None) -> str | None:
    """Return ns, us, ms, s, min, h or d for any of their names; None for another unit ("10,000 s") or none."""
    if name is None:
        return None
    lower = name.strip().lower()
    singular = lower if lower in NANOSECONDS else lower.removesuffix("s")
    return singular if singular in NANOSECONDS else NAMES.get(singular)


def duration_in_nanoseconds(text: str) -> int | None:
    """Return the nanoseconds of "7d", "90min" or "1d 12h"; None where `text` is no duration."""
    parts = PART.findall(text)
    if not parts or PART.sub("", text):
        return None
    total = 0.0
    for number, unit in parts:
        is_week = unit.lower() in ("w", "week", "weeks")
        name = known_unit(unit)
        if name is None and not is_week:
            return None
        total += float(number) * (WEEK if is_week else NANOSECONDS[name or "d"])
    return round(min(total, 2.0**100))  # more has no meaning, and may be inf


def check_duration(value: float | str, option: str) -> None:
    """Refuse what is neither a number of units nor a duration such as 7d.

    Raises:
        DataError: it is neither; the sentence names the option and the value.
    """
    if as_number(value) is None and duration_in_nanoseconds(str(value)) is None:
        raise DataError(f"{option} = {value!r} must be {DURATION_HINT}")


@dataclass(frozen=True)
class Clock:
    """Says how the times of a source become numbers: timestamps count units since an origin, numbers stay.

    A *tick* is a time as the source has it: datetime64[ns] (UTC) with an origin, float64 without.

    Attributes:
        unit: name of the unit of time; one of `NANOSECONDS` where there is an origin; else as declared, or None.
        origin: the timestamp that is time 0, or None where times are numbers.
    """

    unit: str | None = None
    origin: np.datetime64 | None = None

    @classmethod
    def stored(cls, unit: str | None, origin: str | None) -> Clock:
        """Return the clock that a model or file has stored; its times are numbers without an origin or a known unit."""
        name = known_unit(unit)
        if origin is None or name is None:
            return cls(unit)
        return cls(name, parse_timestamp(origin, "time_origin"))

    @property
    def has_dates(self) -> bool:
        """Whether ticks are timestamps."""
        return self.origin is not None

    def times(self, ticks: np.ndarray) -> np.ndarray:
        """Return ticks as numbers of units since the origin, float64, correct to one rounding; NaN where missing."""
        return self.durations(ticks - self.origin) if self.has_dates else ticks

    def durations(self, differences: np.ndarray) -> np.ndarray:
        """Return differences of ticks (int64 nanoseconds are exact) as numbers of units, float64; NaN where missing."""
        if not self.has_dates:
            return differences
        assert self.unit is not None
        is_missing = np.isnat(differences)
        whole, rest = np.divmod(differences.astype("timedelta64[ns]").astype(np.int64), NANOSECONDS[self.unit])
        return np.where(is_missing, np.nan, whole + rest / NANOSECONDS[self.unit])

    def stamps(self, times: np.ndarray) -> np.ndarray:
        """Return numbers of units since the origin as timestamps, datetime64[ns].

        NaT where they are not finite, or before 1677 or after 2262: there int64 nanoseconds end.
        """
        assert self.unit is not None and self.origin is not None
        length = NANOSECONDS[self.unit]
        is_known = np.abs(times + float(self.origin.astype(np.int64)) / length) < _LAST_TICK / length
        stamps = self.origin + np.rint(np.where(is_known, times, 0.0) * length).astype("timedelta64[ns]")
        return np.where(is_known, stamps, np.datetime64("NaT", "ns"))

    def length(self, difference: Any) -> float | None:
        """Return a difference of ticks as a number of units; None stays None."""
        return None if difference is None else float(self.durations(np.asarray(difference)))

    def tick(self, value: float | str, option: str) -> Any:
        """Return the time that an option names: a timestamp (ISO 8601; without a zone UTC), or a number of units."""
        number = as_number(value)
        if not self.has_dates:
            if number is None:
                raise DataError(
                    f"{option} = {value!r} is not a number, and the times of the data are numbers; "
                    "give a number, or say with time_format how the times count"
                )
            if not math.isfinite(number):
                raise DataError(f"{option} = {number} must be a finite number")
            return float(number)
        if number is not None:
            if not math.isfinite(number):
                raise DataError(f"{option} = {number} must be a finite number of units, or a timestamp")
            assert self.origin is not None
            nanoseconds = self._nanoseconds(number, option)
            if abs(int(self.origin.astype(np.int64)) + nanoseconds) >= _LAST_TICK:
                raise DataError(f"{option} = {value} lies before 1677 or after 2262, beyond what timestamps can say")
            return self.origin + np.timedelta64(nanoseconds, "ns")
        return parse_timestamp(str(value), option)

    def duration(self, value: float | str, option: str) -> Any:
        """Return the difference of ticks that an option names: a number of units, or "7d"; it must be positive."""
        number = as_number(value)
        length = None if number is not None else duration_in_nanoseconds(str(value))
        check_duration(value, option)
        if not (math.isfinite(number) and number > 0 if number is not None else (length or 0) > 0):
            raise DataError(f"{option} = {value} must be positive: {DURATION_HINT}")
        if self.has_dates:
            length = self._nanoseconds(number, option) if number is not None else _countable(length or 0, value, option)
            if length == 0:
                raise DataError(f"{option} = {value} is shorter than a nanosecond, in which timestamps count")
            return np.timedelta64(length, "ns")
        if number is not None:
            return float(number)
        unit = known_unit(self.unit)
        if unit is None:
            raise DataError(
                f"{option} = {value!r} needs the unit of the times, which are numbers; give it with time_unit "
                f"({', '.join(NANOSECONDS)}), or give {option} as a number"
            )
        assert length is not None
        return length / NANOSECONDS[unit]

    def _nanoseconds(self, number: float, option: str) -> int:
        assert self.unit is not None
        return _countable(number * NANOSECONDS[self.unit], number, option)


def _countable(nanoseconds: float, value: float | str, option: str) -> int:
    """Return a whole number of nanoseconds that int64 holds.

    Raises:
        DataError: there are more of them than that.
    """
    if not abs(nanoseconds) < _LAST_TICK:
        raise DataError(f"{option} = {value} is longer than 292 years, more than timestamps can say in nanoseconds")
    return round(nanoseconds)


def check_time_unit(known: str | None, found: str | None, whose: str) -> None:
    """Refuse data whose unit of time is not that of a model (`whose`); units of other names say nothing.

    Raises:
        ValueError: both are known units, and they differ.
    """
    trained, given = known_unit(known), known_unit(found)
    if trained is not None and given is not None and trained != given:
        raise ValueError(
            f"{whose} was trained with times in {trained}, but the data are read in {given}; say time_unit: {trained}"
        )


def as_number(value: float | str) -> float | None:
    """Return the number that a value is or spells, or None."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parse_timestamp(text: str, option: str) -> np.datetime64:
    """Return a timestamp in ISO 8601; without a zone it is read as UTC."""
    import pandas

    try:
        stamp = pandas.to_datetime(text, format="ISO8601", utc=True).as_unit("ns")
    except pandas.errors.OutOfBoundsDatetime as error:
        raise DataError(
            f"{option} = {text!r} lies before 1677 or after 2262, beyond what timestamps can say"
        ) from error
    except ValueError as error:
        raise DataError(f"{option} = {text!r} is neither a number nor a timestamp such as 2024-05-31T12:00") from error
    if stamp is pandas.NaT:
        raise DataError(f"{option} = {text!r} is neither a number nor a timestamp such as 2024-05-31T12:00")
    return np.datetime64(stamp.value, "ns")


def to_text(tick: Any) -> str:
    """Return a tick for a message: a number, or a timestamp without trailing zeros."""
    if isinstance(tick, np.datetime64):
        text = str(tick.astype("datetime64[ns]"))
        whole, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        return f"{whole}.{fraction}" if fraction else whole
    return str(tick)
