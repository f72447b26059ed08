"""The sequences in flight: one row each, with its newest event, its end, and what it has produced so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.backends.cpp.active import stand_in
from tppsd.backends.cpp.compiled import Drawn
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.sampling.recent_laws import RecentLaws


class Request(NamedTuple):
    """One sequence to sample, the `number`-th of all. Times are absolute; `history` indexes the call's list of
    histories.

    `end` may be inf; `limit` is the largest number of events, and `is_bounded` says that `max_events` set it, not the
    caller.
    """

    number: int
    history: int
    history_index: int
    path_index: int
    end: float
    limit: int
    is_bounded: bool


class Histories(NamedTuple):
    """What the requests continue: (histories, length + 1) tokens with their true lengths, and where each window stands.

    Fields: tokens; lengths int64 (histories,), at least 1 (the start token); t_start, elapsed float64 (histories,).
    """

    tokens: EventTokens
    lengths: Tensor
    t_start: Tensor
    elapsed: Tensor


class Events(NamedTuple):
    """Candidate next events of each row, in order. One tensor of them is appended, or searched for the newest, by one
    operator.

    Fields: columns float64 (at least 3, rows, n): inter-times, times (since t_start), marks, and what a Recorder adds.
    """

    columns: Tensor

    @classmethod
    def of(cls, inter_times: Tensor, times: Tensor, marks: Tensor) -> Events:
        """From float64 inter_times and times and int64 marks, (rows, n)."""
        return cls(torch.stack([inter_times, times, marks.to(torch.float64)]))

    @property
    def inter_times(self) -> Tensor:
        return self.columns[0]

    @property
    def times(self) -> Tensor:
        return self.columns[1]

    @property
    def marks(self) -> Tensor:
        """int64 (rows, n)."""
        return self.columns[2].long()


class Progress(NamedTuple):
    """How far each row has come. Fields: counts (its events), limit (the most it wants) int64; end float64, since
    t_start; active bool (rows,), it works on a request."""

    counts: Tensor
    limit: Tensor
    end: Tensor
    active: Tensor

    def after(self, times: Tensor, num_events: Tensor) -> tuple[Tensor, Tensor]:
        """(counts, bool (rows,): the row has reached its end) after the first `num_events` (rows,) of events at
        `times`."""
        is_new = torch.arange(times.shape[1], device=times.device) < num_events.unsqueeze(1)
        is_late = ~(times <= self.end.unsqueeze(1)) & is_new
        counts = self.counts + num_events - is_late.sum(1)
        return counts, self.active & (is_late.any(1) | (counts >= self.limit))

    def used(self, num_accepted: Tensor, counts: Tensor) -> Tensor:
        """Accepted events (rows,) that each row had use for, if it has `counts` events with them and the one after."""
        return torch.minimum(num_accepted, torch.minimum(counts, self.limit) - self.counts)


class Rows:
    """State of the rows in flight; all tensors have a leading (rows,) dimension.

    Attributes:
        pending: tokens (rows, 1) of the newest committed event, which the target has not seen yet.
        elapsed: float64, silence before the first draw (left truncation); 0 from the second round on.
        active: bool, the row works on a request.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        def full(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((num_rows,), value, dtype=dtype, device=device)

        self.device = device
        self.request = full(-1, torch.int64)
        self.active = full(0, torch.bool)
        self.t_start, self.end, self.elapsed = (full(0, torch.float64) for _ in range(3))
        self.limit, self.counts = full(0, torch.int64), full(0, torch.int64)
        self.pending = EventTokens(
            torch.zeros(num_rows, 1, dtype=torch.int64, device=device),
            torch.zeros(num_rows, 1, dtype=torch.float64, device=device),
            torch.zeros(num_rows, 1, dtype=torch.float64, device=device),
        )
        self.is_truncated_start = False  # some row draws its first event given silence
        self.store = torch.zeros(
            0, num_rows, 64, dtype=torch.float64, device=device
        )  # the columns of Events, once there are any
        self._most = 0  # no count is larger

    def __len__(self) -> int:
        return len(self.request)

    @property
    def last_times(self) -> Tensor:
        """float64 (rows,): time of the newest committed event since t_start."""
        return self.pending.times[:, 0]

    @property
    def progress(self) -> Progress:
        return Progress(self.counts, self.limit, self.end, self.active)

    def admit(self, rows: Tensor, which: Tensor, requests: list[Request], histories: Histories) -> None:
        """Put `requests` (numbered `which`) into `rows`."""
        history = torch.tensor([r.history for r in requests], device=self.device)
        newest = (histories.lengths[history] - 1).unsqueeze(1)
        for mine, theirs in zip(self.pending, histories.tokens, strict=True):
            mine[rows] = theirs[history].gather(1, newest)
        self.request[rows] = which
        self.active[rows] = True
        self.t_start[rows] = histories.t_start[history]
        self.elapsed[rows] = histories.elapsed[history]
        self.end[rows] = (
            torch.tensor([r.end for r in requests], dtype=torch.float64, device=self.device) - self.t_start[rows]
        )
        self.limit[rows] = torch.tensor([r.limit for r in requests], device=self.device)
        self.counts[rows] = 0
        self.is_truncated_start = bool((self.elapsed > 0).any())

    def commit(self, events: Events, num_events: Tensor) -> Tensor:
        """Append the first `num_events` (rows,) >= 1 events of each row; returns bool (rows,): the row has reached its
        end."""
        n = events.columns.shape[2]
        if len(self.store) < len(events.columns):
            self.store = self.store.new_zeros(len(events.columns), *self.store.shape[1:])
        self._make_room(n)
        where = self.counts.unsqueeze(1) + torch.arange(n, device=self.device)
        self.store.scatter_(2, where.expand_as(events.columns), events.columns)
        newest = events.columns[:3].gather(2, (num_events - 1).view(1, -1, 1).expand(3, -1, -1))
        inter_times, times, marks = newest.unbind(0)
        self.pending = EventTokens(marks.long() + 1, times, inter_times)
        self.counts, reached_end = self.progress.after(events.times, num_events)
        if self.is_truncated_start:
            self.elapsed, self.is_truncated_start = torch.zeros_like(self.elapsed), False
        return reached_end

    def tell(self, most: int) -> None:
        """No count is larger."""
        self._most = most

    def want_more(self, times: Tensor, num: Tensor | int) -> Tensor:
        """bool (rows, n): does the row need an event after the `num`-th drafted ones, which are at `times` (rows,
        n)?"""
        is_within = (times <= self.end.unsqueeze(1)) & (num < (self.limit - self.counts).unsqueeze(1))
        return is_within & self.active.unsqueeze(1)

    def _make_room(self, num_new: int) -> None:
        capacity = self.store.shape[2]
        if self._most + num_new > capacity:  # only now are the counts looked at
            self._most = int(self.counts.max())
            if (needed := self._most + num_new) > capacity:
                self.store = torch.cat(
                    [self.store, self.store.new_zeros(*self.store.shape[:2], max(needed, capacity))], 2
                )
        self._most += num_new

    def release(self, rows: Tensor) -> None:
        """Mark `rows` idle; they idle at the start of an empty window until they are refilled or dropped."""
        self.active[rows] = False
        self.counts[rows] = 0
        for field in self.pending:
            field[rows] = 0

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row but `rows`."""
        for name in ("request", "active", "t_start", "end", "elapsed", "limit", "counts"):
            setattr(self, name, getattr(self, name)[rows])
        self.pending = self.pending.map(lambda field: field[rows])
        self.store = self.store[:, rows]


def last_marks(rows: Rows, num_marks: int) -> Tensor:
    """int64 (rows,): mark of each row's newest event, that of a given first event included; -1 at a plain start."""
    return token_marks(rows.pending.ids[:, 0], num_marks)


def token_marks(ids: Tensor, num_marks: int) -> Tensor:
    """int64, marks of tokens; -1 of a plain start."""
    return torch.where(ids > num_marks, ids - num_marks, ids) - 1


class ModelRows:
    """A model and its cache, row by row in step with `Rows`. A history is encoded once and copied to all of its paths;
    with few rows in flight those of the next requests are encoded along with it, as one pass over many costs little
    more."""

    PREFILL_CHUNK = 512  # tokens per pass over a history: bounds the attention mask of a long one
    AHEAD = 512  # tokens of a pass up to which histories are encoded ahead

    def __init__(self, model: EventModel, num_rows: int, capacity: int, histories: Histories) -> None:
        self.model = model
        self.cache: Any = model.new_cache(num_rows, capacity)
        self.histories = histories
        self._encoded: dict[int, int] = {}  # histories of the latest admission and their rows in _prefilled
        self._prefilled: Any = None
        self._contexts: list[tuple[Any, Tensor, Tensor]] = []  # chunk by chunk, with marks and how many are no padding
        self._recent: RecentLaws | None = None

    def admit(self, rows: Tensor, requests: list[Request]) -> None:
        """Encode the requests' histories, all but the newest token, into `rows`."""
        wanted = list(dict.fromkeys(r.history for r in requests))
        if not self._encoded.keys() >= set(wanted):
            self._encode(self._with_next(wanted))
        self.cache.copy_rows(self._prefilled, self.encoded(requests), rows)

    def encoded(self, requests: list[Request]) -> Tensor:
        """int64 (requests,): rows of the histories of the latest admission."""
        return torch.tensor([self._encoded[r.history] for r in requests], device=self.histories.lengths.device)

    def _with_next(self, wanted: list[int]) -> list[int]:
        """And the histories after them, which the next requests continue."""
        lengths, longest = self.histories.lengths, int(self.histories.lengths[wanted].max())
        if longest == 1:  # nothing to encode: the newest token is not
            return wanted
        first = max(wanted) + 1
        next_lengths = lengths[first : first + self.AHEAD].clamp_min(longest).cummax(0).values
        sizes = next_lengths * torch.arange(len(wanted) + 1, len(wanted) + 1 + len(next_lengths), device=lengths.device)
        return wanted + list(range(first, first + int((sizes <= self.AHEAD).sum())))

    def _encode(self, wanted: list[int]) -> None:
        which = torch.tensor(wanted, device=self.histories.lengths.device)
        lengths = self.histories.lengths[which] - 1
        longest = int(lengths.max())
        self._prefilled = self.model.new_cache(len(wanted), max(1, longest))
        self._contexts, self._recent = [], None
        for start in range(0, longest, self.PREFILL_CHUNK):
            stop = min(longest, start + self.PREFILL_CHUNK)
            part = slice(start, stop)
            tokens = self.histories.tokens.map(lambda field, part=part: field[which, part])
            context = self.model.extend(tokens, self._prefilled)
            marks, num = token_marks(tokens.ids, self.model.num_marks), (lengths - start).clamp(0, stop - start)
            self._contexts.append((context, marks, num))
            self._prefilled.roll_back(
                (stop - lengths.clamp_min(start)).clamp_min(0)
            )  # past the end of shorter histories
        self._encoded = {history: row for row, history in enumerate(wanted)}

    def recent_laws(self) -> RecentLaws:
        """Of the encoded histories, by their rows."""
        if self._recent is None:
            self._recent = RecentLaws(len(self._encoded), self.model.num_marks, self.histories.lengths.device)
            for context, marks, num in self._contexts:
                self._recent.update(self.model.law(context), marks, num)
            self._contexts = []
        return self._recent

    def extend(self, tokens: EventTokens, parents: tuple[int, ...] | None = None) -> Any:
        """Laws (rows, q) after the tokens, a chain or nodes of a tree."""
        return self.model.law(self.model.extend(tokens, self.cache, parents))

    def can_follow(self, law: Any) -> bool:
        """Are there chains of events from such laws?"""
        compiled: Any = stand_in(self.model)
        return hasattr(compiled, "follow") and (law.elapsed is None or compiled.follows_silence)

    def follow(self, law: Any, *arguments: Any) -> Drawn:
        """Events of the model itself, one after another, by one call (CompiledModel.follow)."""
        compiled: Any = stand_in(self.model)
        return compiled.follow(law, self.cache, *arguments)

    @staticmethod
    def laws_of(drawn: Drawn, law: Any) -> Any:
        """Those of all events that `follow` drew from `law` on, the first of each row given the same silence."""
        laws = law.of(drawn.parameters)
        if law.elapsed is None:
            return laws
        return laws.truncated(torch.nn.functional.pad(law.elapsed, (0, laws.batch_shape[1] - 1)))

    def keep_rows(self, rows: Tensor) -> None:
        self.cache.keep_rows(rows)
