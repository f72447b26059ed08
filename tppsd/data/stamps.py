"""Timestamps as times on the clock of a model's data."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from tppsd.data.statistics import DataStatistics
from tppsd.data.units import Clock, as_number, parse_timestamp


def clock_of_model(statistics: DataStatistics | None) -> Clock:
    """Return the clock of the data that a model was trained on; numbers without a unit where nothing is known."""
    return Clock.stored(getattr(statistics, "time_unit", None), getattr(statistics, "time_origin", None))


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
