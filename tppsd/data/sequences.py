"""Event sequences: times and marks on an observation window, checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


def check_fields(sequence: EventSequence) -> None:
    """Refuse times, marks and carried inter-times that do not belong together, and no window at all."""
    where, times, marks = f"sequence {sequence.index}", sequence.event_times, sequence.marks
    if times.shape != marks.shape or times.dim() != 1:
        raise ValueError(
            f"{where}: event_times has shape {tuple(times.shape)} and marks {tuple(marks.shape)}; both must be "
            "(length,) with the same length"
        )
    if marks.dtype != torch.int64:
        raise TypeError(f"{where}: marks are {marks.dtype}; they must be torch.int64, as EventSequence.of makes them")
    if len(times) == 0 and sequence.t_start is None:
        raise ValueError(f"{where}: has no events and no t_start; an empty window needs a t_start")
    if sequence.inter_times is not None:
        _check_inter_times(where, sequence.inter_times, len(times))


def _check_inter_times(where: str, inter_times: Tensor, num_events: int) -> None:
    if inter_times.shape != (num_events,):
        raise ValueError(
            f"{where}: inter_times has shape {tuple(inter_times.shape)}; it must have one entry for each of the "
            f"{num_events} events"
        )
    if (i := _first(~(torch.isfinite(inter_times) & (inter_times >= 0)))) is not None:
        raise ValueError(
            f"{where}: inter_times[{i}] = {inter_times[i].item()}; it must be a finite number of at least 0"
        )


def check_values(sequence: EventSequence) -> None:
    """Refuse times, windows and marks that cannot be."""
    where = f"sequence {sequence.index}"
    _check_times(where, sequence.event_times)
    _check_window(where, sequence)
    if (i := _first(sequence.marks < 0)) is not None:
        raise ValueError(f"{where}: marks[{i}] = {int(sequence.marks[i])} is negative; marks are 0..num_marks-1")


def _check_times(where: str, times: Tensor) -> None:
    if (i := _first(~torch.isfinite(times))) is not None:
        raise ValueError(f"{where}: event_times[{i}] is {times[i].item()}, not a finite number")
    if (i := _first(torch.diff(times) < 0)) is not None:
        before, after = times[i].item(), times[i + 1].item()
        raise ValueError(f"{where}: event_times[{i + 1}] = {after} comes before event_times[{i}] = {before}")


def _check_window(where: str, sequence: EventSequence) -> None:
    times, t_start, t_end = sequence.event_times, sequence.t_start, sequence.t_end
    first, last = (times[0].item(), times[-1].item()) if len(times) else (math.inf, -math.inf)
    if t_start is not None and (not math.isfinite(t_start) or first < t_start):
        raise ValueError(f"{where}: t_start = {t_start} must be finite and not after the first event at {first}")
    lowest = max(last, t_start if t_start is not None else last)
    if t_end is not None and (not math.isfinite(t_end) or t_end < lowest):
        raise ValueError(f"{where}: t_end = {t_end} must be finite and not before {lowest}")
    if sequence.score_start is not None and not math.isfinite(sequence.score_start):
        raise ValueError(f"{where}: score_start = {sequence.score_start} must be a finite number")
    if sequence.censored_start and t_start is None:
        raise ValueError(f"{where}: censored_start says that the window was cut at its t_start, but t_start is None")


def _first(wrong: Tensor) -> int | None:
    return int(wrong.nonzero()[0]) if wrong.any() else None


@dataclass(frozen=True, eq=False)
class EventSequence:
    """Is one sequence of events on an observation window, of which a part is scored.

    Events before `score_start` are *given*: the model sees them, and they have no likelihood term, no residual and no
    share in moments, rates, frequencies and counts. Without a `score_start` nothing is given but the first event of a
    sequence without a `t_start`: the window starts at it and it enters the model through the start token. Without a
    `t_end` the window ends at the last event (no survival term).

    Attributes:
        event_times: float64 (length,), non-decreasing, in the data's own unit.
        marks: int64 (length,), 0..num_marks-1; all zero for unmarked events.
        t_start: start of the window, or None.
        t_end: end of the window ("observed until" for a history), or None.
        index: position in its data set.
        inter_times: float64 (length,), tau_i = t_i - t_{i-1}, tau_1 = t_1 - t_start (0 without a t_start). Samplers
            carry them because differencing large times loses small ones; left out, they are differenced from
            `event_times`.
        score_start: time from which on events are scored, score_start <= t; None = the window's start.
        censored_start: True where `t_start` cuts into something that was going on, as the beginning of a lookback does.
            The event before the first one is not known, so tau_1 is no inter-time: the first event is given, wherever
            it lies, and a window without an event has nothing to score.
        id: what its owner calls the sequence (a case, a user), or None.
        timestamps: int64 (length,), the original timestamps in nanoseconds since 1970 (UTC), or None where the data
            have numbers; `event_times` are these rounded to float64 units since an origin.

    Example:
        >>> sequence = EventSequence.of([1.5, 2.0, 4.0], marks=[0, 1, 0], t_start=0.0, t_end=5.0)
        >>> sequence
        EventSequence(3 events on [0.0, 5.0], index=0)
        >>> sequence.inter_times
        tensor([1.5000, 0.5000, 2.0000], dtype=torch.float64)
        >>> sequence.prefix(2, t_end=3.0)  # what was known at 3.0
        EventSequence(2 events on [0.0, 3.0], index=0)
    """

    event_times: Tensor
    marks: Tensor
    t_start: float | None = None
    t_end: float | None = None
    index: int = 0
    inter_times: Tensor = None  # type: ignore[assignment]
    score_start: float | None = None
    censored_start: bool = False
    id: Any = None
    timestamps: Tensor | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.inter_times is None:
            start = self.t_start if self.t_start is not None else float(self.event_times[0])
            inter_times = torch.diff(self.event_times, prepend=self.event_times.new_tensor([start]))
            object.__setattr__(self, "inter_times", inter_times)
        check_values(self)

    @classmethod
    def of(
        cls,
        times: Any,
        marks: Any = None,
        t_start: float | None = None,
        t_end: float | None = None,
        index: int = 0,
        score_start: float | None = None,
        censored_start: bool = False,
    ) -> EventSequence:
        """Build a sequence from lists or arrays; `marks=None` means unmarked."""
        event_times = torch.as_tensor(times, dtype=torch.float64)
        if marks is None:
            mark_values = torch.zeros_like(event_times, dtype=torch.int64)
        else:
            mark_values = torch.as_tensor(marks)
            if mark_values.is_floating_point() and mark_values.numel():
                raise TypeError(
                    f"sequence {index}: marks are {mark_values.dtype}; they must be integers 0..num_marks-1"
                )
            mark_values = mark_values.to(torch.int64)
        return cls(
            event_times,
            mark_values,
            None if t_start is None else float(t_start),
            None if t_end is None else float(t_end),
            int(index),
            score_start=None if score_start is None else float(score_start),
            censored_start=bool(censored_start),
        )

    @classmethod
    def unchecked(cls, **values: Any) -> EventSequence:
        """Build a sequence of all its attributes, whose values have been checked."""
        sequence = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(sequence, name, value)  # the class is frozen
        return sequence

    def __len__(self) -> int:
        return len(self.event_times)

    def __repr__(self) -> str:
        start = "first event" if self.t_start is None else self.t_start
        end = "last event" if self.t_end is None else self.t_end
        scored = "" if self.score_start is None else f", scored from {self.score_start}"
        return f"EventSequence({len(self)} events on [{start}, {end}]{scored}, index={self.index})"

    @property
    def first_is_given(self) -> bool:
        """Whether the first event carries no time information (no `t_start`)."""
        return self.t_start is None

    @cached_property
    def window_start(self) -> float:
        """Start of the window: `t_start`, or the first event."""
        return self.t_start if self.t_start is not None else float(self.event_times[0])

    @cached_property
    def window_end(self) -> float:
        """End of the window: `t_end`, or the last event."""
        if self.t_end is not None:
            return self.t_end
        return float(self.event_times[-1]) if len(self) else self.window_start

    @cached_property
    def num_given(self) -> int:
        """Number of leading events without a likelihood term, a given first event included."""
        before = 0
        if self.score_start is not None:
            before = int(torch.searchsorted(self.event_times, self.score_start))
        return max(before, min(len(self), int(self.first_is_given or self.censored_start)))

    @property
    def num_scored(self) -> int:
        """Number of events with a likelihood term: the last ones, `event_times[num_given:]`."""
        return len(self) - self.num_given

    @property
    def last_given_time(self) -> float:
        """Time of the last given event, the window's start where there is none."""
        return float(self.event_times[self.num_given - 1]) if self.num_given else self.window_start

    @cached_property
    def scored_from(self) -> float:
        """Start of the scored part of the window.

        It is `score_start`, moved into the window, and not before the last given event.
        """
        if self.censored_start and len(self) == 0:
            return self.window_end
        start = self.window_start if self.score_start is None else min(self.score_start, self.window_end)
        return max(start, self.last_given_time)

    def prefix(self, num_events: int, t_end: float | None = None) -> EventSequence:
        """Return the first `num_events` events, observed until `t_end` (default: until the last of them).

        Of them those are scored that were before.
        """
        return EventSequence(
            self.event_times[:num_events],
            self.marks[:num_events],
            self.t_start,
            t_end,
            self.index,
            self.inter_times[:num_events],
            self.score_start,
            self.censored_start,
            self.id,
            None if self.timestamps is None else self.timestamps[:num_events],
        )


def sequences_hash(sequences: Iterable[EventSequence]) -> str:
    """Return the SHA-256 (hex) of all that sequences hold: ids, windows, times, inter-times and marks."""
    digest = hashlib.sha256()
    for s in sequences:
        window = (s.id, s.t_start, s.t_end, s.score_start, s.censored_start, len(s))
        digest.update(repr(window).encode())
        for values in (s.event_times, s.inter_times, s.marks):
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()
