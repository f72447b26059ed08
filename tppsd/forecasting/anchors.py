"""Histories as of a date, and histories that begin where the windows of a model's training data began.

Times enter a model since the start of a window. A history of years would be foreign to a model of weeks, and so would
be a forecast that goes on beyond the longest window.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.forecasting.origins import history_until

BEYOND = "the forecast reaches beyond the windows"  # how its warning begins
_ROUNDING = 1e-9  # of a length, by which a window may seem longer than those of the training


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


def reanchored(history: EventSequence, reach: float) -> EventSequence:
    """Return the last `reach` units of time of a history, as a window that begins there; a shorter one as it is."""
    return begun_at(history, history.window_end - reach)


def begun_at(history: EventSequence, start: float) -> EventSequence:
    """Return a history from a time on, as a window that begins there; one that begins later as it is.

    Its first inter-time begins where the window does, as in windows of a stream with a lookback: it is none.
    """
    if start <= history.window_start:
        return history
    first = int(torch.searchsorted(history.event_times, start))
    inter_times = history.inter_times[first:].clone()
    inter_times[:1] = history.event_times[first : first + 1] - start
    return replace(
        history,
        event_times=history.event_times[first:],
        marks=history.marks[first:],
        t_start=start,
        inter_times=inter_times,
        censored_start=True,
        timestamps=None if history.timestamps is None else history.timestamps[first:],
    )


class Windows(NamedTuple):
    """Says what windows a model has seen in training, in units of time. Fields: window; lookback: 0 where none was."""

    window: float
    lookback: float

    @classmethod
    def of(cls, statistics: DataStatistics | None) -> Windows | None:
        """Return those of a model's data; None where these were not cut into windows."""
        window = getattr(statistics, "window", None)
        return None if statistics is None or window is None else cls(window, statistics.lookback or 0.0)

    @property
    def longest(self) -> float:
        """Length of the longest window with its lookback."""
        return (self.window + self.lookback) * (1 + _ROUNDING)

    def shortened(self, history: EventSequence) -> EventSequence:
        """Return the last `lookback` of a history that is longer than any window; half a window without a lookback."""
        return history if _length(history) <= self.longest else reanchored(history, self.lookback or self.window / 2)


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
        history_lookback: how much of every history is taken; None = see `Windows.shortened`.
    """
    seen = Windows.of(statistics)
    if history_lookback is not None:
        histories = [reanchored(one, history_lookback) for one in histories]
    elif seen is not None:
        histories = [seen.shortened(one) for one in histories]
    if seen is not None and any(_length(one) + horizon > seen.longest for one in histories):
        unit = f" {statistics.time_unit}" if statistics is not None and statistics.time_unit else ""
        warnings.warn(
            f"{BEYOND} that the model has seen in training, of {seen.window:g}{unit} "
            f"after {seen.lookback:g}{unit} of history; give a horizon of at most {seen.window:g}{unit}, and with "
            "history_lookback how much of every history is taken",
            stacklevel=4,
        )
    return list(histories)


def _length(history: EventSequence) -> float:
    return history.window_end - history.window_start
