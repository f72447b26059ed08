"""Event sequences and padded batches of them: the two currencies of the package."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

NO_MARK = -1  # EventBatch.start_marks of a row whose window starts without an event


@dataclass(frozen=True, eq=False)
class EventSequence:
    """One sequence of events on an observation window.

    Without a `t_start` the first event is *given*: the window starts at it, it enters the model through the start
    token and has no likelihood term. Without a `t_end` the window ends at the last event (no survival term).

    Attributes:
        event_times: float64 (length,), non-decreasing, in the data's own unit.
        marks: int64 (length,), 0..num_marks-1; all zero for unmarked events.
        t_start: start of the window, or None.
        t_end: end of the window ("observed until" for a history), or None.
        index: position in its data set.
        inter_times: float64 (length,), tau_i = t_i - t_{i-1}, tau_1 = t_1 - t_start (0 without a t_start). Samplers
            carry them because differencing large times loses small ones; left out, they are differenced from
            `event_times`.
    """

    event_times: Tensor
    marks: Tensor
    t_start: float | None = None
    t_end: float | None = None
    index: int = 0
    inter_times: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.event_times.shape != self.marks.shape or self.event_times.dim() != 1:
            raise ValueError(
                f"sequence {self.index}: event_times has shape {tuple(self.event_times.shape)} and marks "
                f"{tuple(self.marks.shape)}; both must be (length,) with the same length"
            )
        if self.marks.dtype != torch.int64:
            raise TypeError(
                f"sequence {self.index}: marks are {self.marks.dtype}; they must be torch.int64, as EventSequence.of makes them"
            )
        if len(self) == 0 and self.t_start is None:
            raise ValueError(f"sequence {self.index}: has no events and no t_start; an empty window needs a t_start")
        if self.inter_times is None:
            start = self.t_start if self.t_start is not None else float(self.event_times[0])
            inter_times = torch.diff(self.event_times, prepend=self.event_times.new_tensor([start]))
            object.__setattr__(self, "inter_times", inter_times)
        else:
            self._check_inter_times()
        self._check_times()
        if (self.marks < 0).any():
            i = int((self.marks < 0).nonzero()[0])
            raise ValueError(
                f"sequence {self.index}: marks[{i}] = {int(self.marks[i])} is negative; marks are 0..num_marks-1"
            )

    def _check_inter_times(self) -> None:
        if self.inter_times.shape != self.event_times.shape:
            raise ValueError(
                f"sequence {self.index}: inter_times has shape {tuple(self.inter_times.shape)}; it must have one entry for each "
                f"of the {len(self)} events"
            )
        is_wrong = ~(torch.isfinite(self.inter_times) & (self.inter_times >= 0))
        if is_wrong.any():
            i = int(is_wrong.nonzero()[0])
            raise ValueError(
                f"sequence {self.index}: inter_times[{i}] = {self.inter_times[i].item()}; "
                "it must be a finite number of at least 0"
            )

    def _check_times(self) -> None:
        if not torch.isfinite(self.event_times).all():
            i = int((~torch.isfinite(self.event_times)).nonzero()[0])
            raise ValueError(
                f"sequence {self.index}: event_times[{i}] is {self.event_times[i].item()}, not a finite number"
            )
        if (torch.diff(self.event_times) < 0).any():
            i = int((torch.diff(self.event_times) < 0).nonzero()[0]) + 1
            before, after = self.event_times[i - 1].item(), self.event_times[i].item()
            raise ValueError(
                f"sequence {self.index}: event_times[{i}] = {after} comes before event_times[{i - 1}] = {before}"
            )
        first, last = (self.event_times[0].item(), self.event_times[-1].item()) if len(self) else (math.inf, -math.inf)
        if self.t_start is not None and (not math.isfinite(self.t_start) or first < self.t_start):
            raise ValueError(
                f"sequence {self.index}: t_start = {self.t_start} must be finite and not after the first event at {first}"
            )
        lowest = max(last, self.t_start if self.t_start is not None else last)
        if self.t_end is not None and (not math.isfinite(self.t_end) or self.t_end < lowest):
            raise ValueError(f"sequence {self.index}: t_end = {self.t_end} must be finite and not before {lowest}")

    @classmethod
    def of(
        cls,
        times: Any,
        marks: Any = None,
        t_start: float | None = None,
        t_end: float | None = None,
        index: int = 0,
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
        )

    def __len__(self) -> int:
        return len(self.event_times)

    def __repr__(self) -> str:
        start = "first event" if self.t_start is None else self.t_start
        end = "last event" if self.t_end is None else self.t_end
        return f"EventSequence({len(self)} events on [{start}, {end}], index={self.index})"

    @property
    def first_is_given(self) -> bool:
        """True if the first event carries no time information (no `t_start`)."""
        return self.t_start is None

    @cached_property
    def window_start(self) -> float:
        return self.t_start if self.t_start is not None else float(self.event_times[0])

    @cached_property
    def window_end(self) -> float:
        if self.t_end is not None:
            return self.t_end
        return float(self.event_times[-1]) if len(self) else self.window_start

    @property
    def num_scored(self) -> int:
        """Number of events with a likelihood term."""
        return len(self) - self.first_is_given

    def prefix(self, num_events: int, t_end: float | None = None) -> EventSequence:
        """The first `num_events` events, observed until `t_end` (default: until the last of them)."""
        return EventSequence(
            self.event_times[:num_events],
            self.marks[:num_events],
            self.t_start,
            t_end,
            self.index,
            self.inter_times[:num_events],
        )


class EventBatch(NamedTuple):
    """Right-padded sequences. A given first event is not among the events: it is `t_start` and `start_marks`.

    Fields: event_times, inter_times float64 (batch, length); marks int64 (batch, length); mask bool (batch, length),
    True = event; t_start, t_end float64 (batch,), where a missing `t_end` has become the last event's time (so that
    log S(0) = 0 adds nothing); start_marks int64 (batch,), the given first event's mark or NO_MARK; index int64
    (batch,).
    """

    event_times: Tensor
    inter_times: Tensor
    marks: Tensor
    mask: Tensor
    t_start: Tensor
    t_end: Tensor
    start_marks: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    @property
    def lengths(self) -> Tensor:
        """int64 (batch,): number of events with a likelihood term."""
        return self.mask.sum(1)

    @property
    def last_times(self) -> Tensor:
        """float64 (batch,): time of the last event, `t_start` where there is none."""
        padded = torch.cat([self.t_start.unsqueeze(1), self.event_times], 1)
        return padded.gather(1, self.lengths.unsqueeze(1)).squeeze(1)

    def to(self, device: torch.device | str) -> EventBatch:
        return EventBatch(*(field.to(device) for field in self))

    @classmethod
    def from_sequences(cls, sequences: Iterable[EventSequence]) -> EventBatch:
        """Pad `sequences` on the right (padding: time = window end, inter-time = 1, mark = 0)."""
        rows: Sequence[EventSequence] = [sequences] if isinstance(sequences, EventSequence) else list(sequences)
        if not rows:
            raise ValueError("an EventBatch needs at least one sequence; got an empty list")
        sizes, given = torch.tensor([len(row) for row in rows]), torch.tensor([row.first_is_given for row in rows])
        event_times, inter_times, marks = (
            torch.cat([getattr(row, field) for row in rows]) for field in ("event_times", "inter_times", "marks")
        )
        lengths, first = sizes - given.long(), sizes.cumsum(0) - sizes  # first: of each row, in the concatenated ones
        place = torch.arange(int(lengths.max()))
        mask = place < lengths.unsqueeze(1)
        where = ((first + given).unsqueeze(1) + place).clamp_max(max(len(marks) - 1, 0))
        start_marks = torch.full_like(sizes, NO_MARK)
        start_marks[given] = marks[first[given]].long()
        ends = torch.tensor([row.window_end for row in rows], dtype=torch.float64)
        return cls(
            torch.where(mask, event_times[where].double(), ends.unsqueeze(1)),
            torch.where(mask, inter_times[where].double(), 1.0),
            torch.where(mask, marks[where].long(), 0),
            mask,
            torch.tensor([row.window_start for row in rows], dtype=torch.float64),
            ends,
            start_marks,
            torch.tensor([row.index for row in rows]),
        )

    def sequence(self, row: int) -> EventSequence:
        """Row `row` as an EventSequence (with the given first event, if it has one)."""
        n, given = int(self.lengths[row]), int(self.start_marks[row]) != NO_MARK
        times, inter_times, marks = self.event_times[row, :n], self.inter_times[row, :n], self.marks[row, :n]
        if given:
            times = torch.cat([self.t_start[row : row + 1], times])
            inter_times = torch.cat([inter_times.new_zeros(1), inter_times])
            marks = torch.cat([self.start_marks[row : row + 1], marks])
        t_start = None if given else float(self.t_start[row])
        return EventSequence(
            times.cpu(), marks.cpu(), t_start, float(self.t_end[row]), int(self.index[row]), inter_times.cpu()
        )
