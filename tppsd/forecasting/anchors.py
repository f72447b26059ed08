"""Histories as of a date, and histories of which a model has seen the like in training.

As foreign to a model of weeks as a history of years (tppsd.data.lookback) is a forecast that goes on beyond the longest
window.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from tppsd.data.lookback import Windows, known_to
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting.origins import history_until

BEYOND = "the forecast reaches beyond the windows"  # how its warning begins


class AsOf(NamedTuple):
    """Holds what was known of sequences at one time.

    Fields: histories; sequences: of which they are, as many; num_later: sequences that begin later; num_ended: those
    whose observation ends before.
    """

    histories: list[EventSequence]
    sequences: list[EventSequence]
    num_later: int
    num_ended: int


def as_of(sequences: Sequence[EventSequence], time: float) -> AsOf:
    """Return the histories of sequences that were under observation at a time, with the events up to and including it.

    Args:
        sequences: with all that has been observed of them.
        time: on their clock.
    """
    later = [one for one in sequences if one.window_start > time]
    ended = [one for one in sequences if one.window_end < time]
    kept = [one for one in sequences if one.window_start <= time <= one.window_end]
    return AsOf([history_until(one, time) for one in kept], kept, len(later), len(ended))


def anchored(
    histories: Sequence[EventSequence],
    statistics: DataStatistics | None,
    horizon: float,
    history_lookback: float | None = None,
) -> list[EventSequence]:
    """Return histories that begin no longer ago than a model has seen, and warn where a forecast reaches further.

    Args:
        histories: that are continued.
        statistics: of the model's data, or None.
        horizon: of the forecast, in the unit of time.
        history_lookback: how much of every history is taken; None = see tppsd.data.lookback.
    """
    seen, histories = Windows.of(statistics), known_to(statistics, histories, history_lookback)
    if seen is not None and any(_length(one) + horizon > seen.longest for one in histories):
        unit = f" {statistics.time_unit}" if statistics is not None and statistics.time_unit else ""
        warnings.warn(
            f"{BEYOND} that the model has seen in training, of {seen.window:g}{unit} "
            f"after {seen.lookback:g}{unit} of history; give a horizon of at most {seen.window:g}{unit}, and with "
            "history_lookback how much of every history is taken",
            stacklevel=4,
        )
    return histories


def _length(history: EventSequence) -> float:
    return history.window_end - history.window_start
