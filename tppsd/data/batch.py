"""Padded batches of event sequences: what models and metrics read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sequences import EventSequence

NO_MARK = -1  # EventBatch.start_marks of a row whose window starts without an event


class EventBatch(NamedTuple):
    """Holds right-padded sequences; a given first event is not among the events: it is `t_start` and `start_marks`.

    `mask` and `lengths` are of all events, `scored` and `num_scored` of those with a likelihood term: the denominators.

    Fields:
        event_times, inter_times: float64 (batch, length).
        marks: int64 (batch, length).
        mask: bool (batch, length), True = event, given or scored.
        t_start, t_end: float64 (batch,), where a missing `t_end` has become the last event's time (so that log S(0) = 0
            adds nothing).
        start_marks: int64 (batch,), the given first event's mark or NO_MARK.
        index: int64 (batch,).
        score_start: float64 (batch,), where a missing one has become the window's start.
        censored_start: bool (batch,).

    Example:
        >>> rows = [EventSequence.of([1.0, 2.0], t_start=0.0), EventSequence.of([4.0], t_start=0.0)]
        >>> EventBatch.from_sequences(rows).mask
        tensor([[ True,  True],
                [ True, False]])
    """

    event_times: Tensor
    inter_times: Tensor
    marks: Tensor
    mask: Tensor
    t_start: Tensor
    t_end: Tensor
    start_marks: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    score_start: Tensor
    censored_start: Tensor

    @property
    def lengths(self) -> Tensor:
        """Number of events, given or scored, int64 (batch,)."""
        return self.mask.sum(1)

    @property
    def num_given(self) -> Tensor:
        """Number of leading events without a likelihood term, int64 (batch,); a given first event is none of them."""
        before = (self.mask & (self.event_times < self.score_start.unsqueeze(1))).sum(1)
        return torch.maximum(before, (self.censored_start & (self.lengths > 0)).long())

    @property
    def scored(self) -> Tensor:
        """A mask of the events that have a likelihood term, bool (batch, length)."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        return self.mask & (place >= self.num_given.unsqueeze(1))

    @property
    def num_scored(self) -> Tensor:
        """Number of events with a likelihood term, int64 (batch,)."""
        return self.lengths - self.num_given

    @property
    def last_times(self) -> Tensor:
        """Time of the last event, `t_start` where there is none, float64 (batch,)."""
        return self._times_at(self.lengths)

    @property
    def last_given_times(self) -> Tensor:
        """Time of the last given event, `t_start` where there is none, float64 (batch,)."""
        return self._times_at(self.num_given)

    @property
    def scored_from(self) -> Tensor:
        """Start of the scored part of each window (EventSequence.scored_from), float64 (batch,)."""
        start = torch.maximum(torch.minimum(self.score_start, self.t_end), self.last_given_times)
        return torch.where(self.censored_start & (self.lengths == 0), self.t_end, start)

    def _times_at(self, counts: Tensor) -> Tensor:
        """Return the time of each row's event number `counts` (from 1), `t_start` at 0, float64 (batch,)."""
        padded = torch.cat([self.t_start.unsqueeze(1), self.event_times], 1)
        return padded.gather(1, counts.unsqueeze(1)).squeeze(1)

    def to(self, device: torch.device | str) -> EventBatch:
        """Return the batch on a device."""
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
        score_start = [row.window_start if row.score_start is None else row.score_start for row in rows]
        return cls(
            torch.where(mask, event_times[where].double(), ends.unsqueeze(1)),
            torch.where(mask, inter_times[where].double(), 1.0),
            torch.where(mask, marks[where].long(), 0),
            mask,
            torch.tensor([row.window_start for row in rows], dtype=torch.float64),
            ends,
            start_marks,
            torch.tensor([row.index for row in rows]),
            torch.tensor(score_start, dtype=torch.float64),
            torch.tensor([row.censored_start for row in rows]),
        )

    def sequence(self, row: int) -> EventSequence:
        """Return row `row` as an EventSequence (with the given first event, if it has one)."""
        n, given = int(self.lengths[row]), int(self.start_marks[row]) != NO_MARK
        times, inter_times, marks = self.event_times[row, :n], self.inter_times[row, :n], self.marks[row, :n]
        if given:
            times = torch.cat([self.t_start[row : row + 1], times])
            inter_times = torch.cat([inter_times.new_zeros(1), inter_times])
            marks = torch.cat([self.start_marks[row : row + 1], marks])
        t_start, score_start = float(self.t_start[row]), float(self.score_start[row])
        return EventSequence(
            times.cpu(),
            marks.cpu(),
            None if given else t_start,
            float(self.t_end[row]),
            int(self.index[row]),
            inter_times.cpu(),
            None if score_start == t_start else score_start,
            bool(self.censored_start[row]),
        )
