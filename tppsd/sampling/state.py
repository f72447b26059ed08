"""The running sequences of a batch: one row each, with its last token, its end, and the events it has so far."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens
from tppsd.sampling.requests import Histories, Requests


class Events(NamedTuple):
    """Holds candidate next events of each row, in order.

    Fields:
        columns: float64 (3, rows, n), inter-times, times (since t_start) and marks. One tensor of them is appended, or
            searched for the newest, by one operator.
    """

    columns: Tensor

    @classmethod
    def of(cls, inter_times: Tensor, times: Tensor, marks: Tensor) -> Events:
        """Join float64 inter_times and times and int64 marks, (rows, n) each."""
        return cls(torch.stack([inter_times, times, marks.to(torch.float64)]))

    @property
    def inter_times(self) -> Tensor:
        """Inter-times, float64 (rows, n)."""
        return self.columns[0]

    @property
    def times(self) -> Tensor:
        """Times since t_start, float64 (rows, n)."""
        return self.columns[1]

    @property
    def marks(self) -> Tensor:
        """Marks, int64 (rows, n)."""
        return self.columns[2].long()


class RowStore:
    """Holds columns of numbers that every row appends to at its own length; doubled as needed.

    Args:
        num_columns: numbers per event.
        num_rows: rows.
        device: where they are kept.
    """

    def __init__(self, num_columns: int, num_rows: int, device: torch.device) -> None:
        self.values = torch.zeros(num_columns, num_rows, 64, dtype=torch.float64, device=device)
        self._most = 0  # no row is longer

    def append(self, lengths: Tensor, columns: Tensor) -> None:
        """Write columns (num_columns, rows, n) behind the first `lengths` (rows,) of each row."""
        num_new, capacity = columns.shape[2], self.values.shape[2]
        if self._most + num_new > capacity:  # only now are the lengths looked at
            self._most = int(lengths.max())
            if (needed := self._most + num_new) > capacity:
                more = self.values.new_zeros(*self.values.shape[:2], max(needed, capacity))
                self.values = torch.cat([self.values, more], 2)
        self._most += num_new
        where = lengths.unsqueeze(1) + torch.arange(num_new, device=columns.device)
        self.values.scatter_(2, where.expand_as(columns), columns)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.values = self.values[:, rows]


def ragged(values: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Return the first `counts` (n,) entries of some rows, one row after the other.

    Args:
        values: (columns, rows, capacity).
        rows: int64 (n,).
        counts: int64 (n,).
    """
    longest = int(counts.max()) if len(counts) else 0
    is_wanted = torch.arange(longest, device=counts.device) < counts.unsqueeze(1)
    return values[:, rows, :longest][:, is_wanted]


class BatchState:
    """Holds the state of the running sequences; all tensors have a leading (rows,) dimension.

    Attributes:
        request: int64, number of the request that the row works on.
        active: bool, the row works on a request.
        t_start, end: float64, start of its window, and its end since then.
        elapsed: float64, time without events before the first draw (left truncation); 0 from the second step on.
        limit, counts: int64, the most events it wants, and how many it has.
        last_token: tokens (rows, 1) of the newest committed event, which the target has not seen yet.
        stop_marks: bool (num_marks,), marks of which the first committed event ends a row; None = none does.
        reached_end: bool, the latest commit brought the row to its end.
        stopped: bool, and that was an event of one of the `stop_marks`, within the row's end and limit.
        is_truncated_start: some row draws its first event given elapsed time.
    """

    def __init__(self, num_rows: int, device: torch.device, stop_marks: Tensor | None = None) -> None:
        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((num_rows,), value, dtype=dtype, device=device)

        self.device, self.stop_marks = device, stop_marks
        self.request = full(-1, torch.int64)
        self.active, self.reached_end, self.stopped = (full(0, torch.bool) for _ in range(3))
        self.t_start, self.end, self.elapsed = (full(0, torch.float64) for _ in range(3))
        self.limit, self.counts = full(0, torch.int64), full(0, torch.int64)
        self.last_token = EventTokens(*(full(0, dtype).unsqueeze(1) for dtype in (torch.int64, *[torch.float64] * 2)))
        self.is_truncated_start = False
        self.events = RowStore(3, num_rows, device)

    def __len__(self) -> int:
        return len(self.request)

    @property
    def last_times(self) -> Tensor:
        """Time of the newest committed event since t_start, float64 (rows,)."""
        return self.last_token.times[:, 0]

    def last_marks(self, num_marks: int) -> Tensor:
        """Return the mark of each row's newest event, int64 (rows,).

        It may be that of a given first event; -1 stands for a start without one.
        """
        return token_marks(self.last_token.ids[:, 0], num_marks)

    def prefill(self, rows: Tensor, which: Tensor, requests: Requests, histories: Histories) -> None:
        """Put `requests` (numbered `which`) into `rows`."""
        history = requests.history.to(self.device)
        newest = (histories.lengths[history] - 1).unsqueeze(1)
        for mine, theirs in zip(self.last_token, histories.tokens, strict=True):
            mine[rows] = theirs[history].gather(1, newest)
        self.request[rows] = which
        self.active[rows] = True
        self.t_start[rows] = histories.t_start[history]
        self.elapsed[rows] = histories.elapsed[history]
        self.end[rows] = requests.end.to(self.device) - self.t_start[rows]
        self.limit[rows] = requests.limit.to(self.device)
        self.counts[rows] = 0
        self.is_truncated_start = bool((self.elapsed > 0).any())

    def commit(self, events: Events, num_events: Tensor) -> None:
        """Append the first `num_events` (rows,) events of each row, and see which rows have reached their end.

        What comes after a row's end is not counted.
        """
        self.events.append(self.counts, events.columns)
        newest = events.columns.gather(2, (num_events - 1).clamp_min(0).view(1, -1, 1).expand(3, -1, -1))
        inter_times, times, marks = newest.unbind(0)
        tokens, has_new = EventTokens(marks.long() + 1, times, inter_times), (num_events > 0).unsqueeze(1)
        self.last_token = EventTokens(
            *(torch.where(has_new, *pair) for pair in zip(tokens, self.last_token, strict=True))
        )
        is_new = torch.arange(events.times.shape[1], device=self.device) < num_events.unsqueeze(1)
        is_late = ~(events.times <= self.end.unsqueeze(1)) & is_new
        num_counted = num_events - is_late.sum(1)
        self.reached_end = is_late.any(1) | (self.counts + num_counted >= self.limit)
        if self.stop_marks is not None:
            num_counted = self._stop(events.marks, num_counted)
        self.counts = self.counts + num_counted
        self.reached_end &= self.active
        if self.is_truncated_start:
            self.elapsed, self.is_truncated_start = torch.zeros_like(self.elapsed), False

    def _stop(self, marks: Tensor, num_counted: Tensor) -> Tensor:
        """Return how many new events count, int64 (rows,), where the first of the `stop_marks` is the last to count.

        Args:
            marks: int64 (rows, n), of the committed events, then anything.
            num_counted: int64 (rows,), how many of them would count otherwise.
        """
        place = torch.arange(marks.shape[1], device=self.device)
        within = torch.minimum(num_counted, self.limit - self.counts).unsqueeze(1)
        first = torch.where(self.is_stop(marks) & (place < within), place, marks.shape[1]).amin(1)
        self.stopped = self.active & (first < marks.shape[1])
        self.reached_end |= self.stopped
        return torch.where(self.stopped, first + 1, num_counted)

    def is_stop(self, marks: Tensor) -> Tensor:
        """Say which int64 marks (...) are among the `stop_marks`, bool (...)."""
        assert self.stop_marks is not None
        return self.stop_marks[marks.clamp(0, len(self.stop_marks) - 1)]

    def want_more(self, times: Tensor, num: Tensor | int) -> Tensor:
        """Say which rows need an event after the `num`-th drafted ones at `times` (rows, n), bool (rows, n)."""
        is_within = (times <= self.end.unsqueeze(1)) & (num < (self.limit - self.counts).unsqueeze(1))
        return is_within & self.active.unsqueeze(1)

    def free(self, rows: Tensor) -> None:
        """Mark `rows` idle; they wait at the start of an empty window until they are filled again or dropped."""
        self.active[rows] = self.reached_end[rows] = False
        self.counts[rows] = 0
        for field in self.last_token:
            field[rows] = 0

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        for name in ("request", "active", "reached_end", "stopped", "t_start", "end", "elapsed", "limit", "counts"):
            setattr(self, name, getattr(self, name)[rows])
        self.last_token = self.last_token.map(lambda field: field[rows])
        self.events.compact(rows)


def token_marks(ids: Tensor, num_marks: int) -> Tensor:
    """Return marks of tokens by their ids, int64; -1 of a plain start."""
    return torch.where(ids > num_marks, ids - num_marks, ids) - 1
