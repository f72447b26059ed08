"""Histories that begin where the windows of a model's training data began.

Times enter a model since the start of a window, so that a history of years would be foreign to a model of weeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from tppsd.data.sequences import EventSequence

if TYPE_CHECKING:
    from tppsd.data.statistics import DataStatistics

_ROUNDING = 1e-9  # of a length, by which a window may seem longer than those of the training


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

    def are_outgrown_by(self, history: EventSequence) -> bool:
        """Say whether a history is longer than any window."""
        return history.window_end - history.window_start > self.longest

    def shortened(self, history: EventSequence) -> EventSequence:
        """Return the last `lookback` of a history that is longer than any window; half a window without a lookback."""
        return reanchored(history, self.lookback or self.window / 2) if self.are_outgrown_by(history) else history


def known_to(
    statistics: DataStatistics | None, histories: Sequence[EventSequence], history_lookback: float | None = None
) -> list[EventSequence]:
    """Return histories that begin no longer ago than a model has seen; of those that do so already, themselves.

    Args:
        statistics: of the model's data, or None.
        histories: that are continued.
        history_lookback: how much of every history is taken, in units of time; None = see `Windows.shortened`.
    """
    if history_lookback is not None:
        return [reanchored(one, history_lookback) for one in histories]
    windows = Windows.of(statistics)
    return list(histories) if windows is None else [windows.shortened(one) for one in histories]
