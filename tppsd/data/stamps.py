"""Timestamps as times on the clock of a model's data."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np

from tppsd.data.statistics import DataStatistics
from tppsd.data.units import Clock, as_number, parse_timestamp

_CUTS = ("window", "lookback")


def clock_of_model(statistics: DataStatistics | None) -> Clock:
    """Return the clock of the data that a model was trained on; numbers without a unit where nothing is known."""
    return Clock.stored(getattr(statistics, "time_unit", None), getattr(statistics, "time_origin", None))


def as_trained(
    statistics: DataStatistics | None, given: Mapping[str, Any], stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return options of reading by which data are read as those of a model were.

    The model knows unit and origin of the times, the names of its marks, window and lookback.

    Args:
        statistics: of the model's data; None: nothing is known of them.
        given: options of `tppsd.data.options.ReadOptions` that stay as they are. Where `min_mark_count` is one of them,
            the marks are found in the data.
        stored: options of a configuration, which give way to `given`. The model knows more of the marks; of the windows
            they know more, where they name them: data may have been cut before.
    """
    stored = dict(stored or {})
    own: dict[str, Any] = {}
    if statistics is not None:
        clock = clock_of_model(statistics)
        own = {"time_unit": clock.unit, "origin": statistics.time_origin if clock.has_dates else None}
        own |= {"window": statistics.window, "lookback": statistics.lookback}
        if statistics.mark_names is not None:
            own["mark_names"] = list(statistics.mark_names)
            stored = {name: value for name, value in stored.items() if name not in ("mark_names", "min_mark_count")}
    if given.get("min_mark_count") is not None:
        own.pop("mark_names", None)
    if given.get("observed") is not None:
        own.pop("window", None)
    read = own | {name: value for name, value in stored.items() if value is not None or name in _CUTS} | dict(given)
    if read.get("window") is None and "lookback" not in given:
        read.pop("lookback", None)
    return {name: value for name, value in read.items() if value is not None or name in given}


def stamp_of(value: Any) -> np.datetime64 | None:
    """Return a timestamp in UTC, of text in ISO 8601 or an object that holds one; None for a number."""
    if isinstance(value, str) and as_number(value) is None:
        return parse_timestamp(value, "time")
    if isinstance(value, datetime.date | np.datetime64):  # a pandas.Timestamp is a datetime
        import pandas

        stamp = pandas.to_datetime(value, utc=True).as_unit("ns")
        return np.datetime64(stamp.value, "ns")
    return None


def time_of(value: Any, clock: Clock, name: str) -> float:
    """Return a time as a number on the clock of a model, from a number or a timestamp.

    Args:
        value: what a caller gave.
        clock: of the model.
        name: of the argument, for messages.

    Raises:
        ValueError: a timestamp for a model whose times are numbers, or neither.
    """
    stamp = stamp_of(value)
    if stamp is None:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} = {value!r} is neither a number nor a timestamp") from None
    if not clock.has_dates:
        raise ValueError(
            f"{name} = {value!r} is a timestamp, and the times of the model's data are numbers; give a number"
        )
    return float(clock.times(np.asarray(stamp)))
