"""Formats of timestamps: the values of the option `time_format`, and strings in one of them."""

from __future__ import annotations

from collections.abc import Sequence

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
