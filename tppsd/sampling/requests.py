"""Requests from the arguments of `sample`: histories as tokens, one end per sequence, every mistake named."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.models.protocol import EventModel, EventTokens
from tppsd.models.resolve import model_device
from tppsd.sampling.checks import whole_number
from tppsd.sampling.noise import Purpose, address, row_keys, uniforms

if TYPE_CHECKING:
    from tppsd.data.statistics import DataStatistics

NO_LIMIT = 2**62  # events
BYTES_EACH = 90  # of the plan of a sequence, measured with 3 million of them; its events come on top
FROM_SCRATCH = -1  # history_index of a sequence that continues nothing


class Wanted(NamedTuple):
    """Says what a caller wants sampled; the fields are arguments of `tppsd.sample`."""

    history: EventSequence | Sequence[EventSequence] | EventBatch | None = None
    num_sequences: int = 1
    t_start: Any = None
    t_end: Any = None
    horizon: Any = None
    num_events: Any = None
    first_index: int = 0
    history_lookback: float | str | None = None


@dataclass(frozen=True, eq=False)
class Requests:
    """Holds sequences to sample, in index order, one number of each per column: there is no object per sequence.

    Attributes:
        number: int64 (n,), their indices.
        history: int64 (n,), which of the job's histories each continues.
        history_index, path_index: int64 (n,), what their noise is keyed by.
        end: float64 (n,), absolute times, which may be inf.
        limit: int64 (n,), the largest number of events.
        is_bounded: bool (n,), `max_events` set the limit, not the caller.
    """

    number: Tensor
    history: Tensor
    history_index: Tensor
    path_index: Tensor
    end: Tensor
    limit: Tensor
    is_bounded: Tensor

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, which: slice | Tensor) -> Requests:
        """Select some of them."""
        return Requests(*(getattr(self, field.name)[which] for field in fields(self)))


class Histories(NamedTuple):
    """Holds what the requests continue: tokens of histories, and where each window stands.

    Fields:
        tokens: (histories, length + 1).
        lengths: int64 (histories,), their true lengths, at least 1 (the start token).
        t_start: float64 (histories,).
        elapsed: float64 (histories,), time observed since the newest event.
    """

    tokens: EventTokens
    lengths: Tensor
    t_start: Tensor
    elapsed: Tensor


class RequestPlan(NamedTuple):
    """Says what a job will sample: `sources[h]` is what a request with history h continues.

    Fields:
        requests, sources, histories: see their types.
        stop_marks: bool (num_marks,), marks of which the first event ends a sequence, or None.
        forbid_marks: likewise, those that do not happen.
        max_events: safety bound of each sequence.
    """

    requests: Requests
    sources: list[EventSequence]
    histories: Histories
    stop_marks: Tensor | None = None
    forbid_marks: Tensor | None = None
    max_events: int = NO_LIMIT

    @property
    def continues_histories(self) -> bool:
        """Whether a sequence continues more than the start of an empty window."""
        return bool((self.histories.lengths > 1).any())

    @property
    def window_starts(self) -> Tensor:
        """Start of each source's window, float64 (sources,)."""
        return torch.tensor([source.window_start for source in self.sources], dtype=torch.float64)

    @property
    def window_ends(self) -> Tensor:
        """The time until which each source was observed, float64 (sources,)."""
        return torch.tensor([source.window_end for source in self.sources], dtype=torch.float64)


def plan_requests(wanted: Wanted, target: EventModel, max_events: int, seed: int) -> RequestPlan:
    """Return requests in index order: `num_sequences` from scratch, or that many paths of each history.

    Raises:
        ValueError: an argument is out of place; the sentence names it and its value.
    """
    history, num_sequences, t_start, t_end, horizon, num_events, first_index, history_lookback = wanted
    num_marks, statistics = target.num_marks, getattr(target, "statistics", None)
    num_sequences = whole_number("num_sequences", num_sequences, 1)
    first_index = whole_number("first_index", first_index, 0, 2**62 // num_sequences)  # so that every index has 64 bits
    max_events = NO_LIMIT if max_events == math.inf else min(whole_number("max_events", max_events, 1), NO_LIMIT)
    if t_end is None and horizon is None and num_events is None:
        raise ValueError("sampling needs an end: give t_end, horizon or num_events")
    given = _given(history, history_lookback, statistics)
    check_memory(num_sequences, max(1, len(given)))
    if history is None:
        sources, which = _from_scratch(num_sequences, t_start, statistics, seed, first_index)
        history_index, base = torch.full_like(which, FROM_SCRATCH), first_index
        path_index = first_index + torch.arange(num_sequences)
    else:
        if t_start is not None:
            raise ValueError(
                f"t_start = {t_start} was given together with a history, whose window it already has; leave it out"
            )
        sources, base = given, first_index * num_sequences
        which = torch.arange(len(sources)).repeat_interleave(num_sequences)
        history_index, path_index = first_index + which, torch.arange(num_sequences).repeat(len(sources))
    for i, source in enumerate(sources):
        if len(source) and not 0 <= int(source.marks.min()) <= int(source.marks.max()) < num_marks:
            raise ValueError(
                f"history {i}: marks must be in 0..{num_marks - 1} (the model's num_marks), "
                f"found {int(source.marks.max())}"
            )
    window_ends = torch.tensor([source.window_end for source in sources], dtype=torch.float64)
    ends = _ends(window_ends[which], t_end, horizon)
    given_first = int(history is None and sources[0].first_is_given)  # counts among the events, but is not sampled
    limits, most = _limits(len(which), num_events) - given_first, max_events - given_first
    number = base + torch.arange(len(which))
    columns = (number, which, history_index, path_index, ends, limits.clamp_max(most), limits > most)
    histories = _encode(sources, num_marks, model_device(target))
    return RequestPlan(Requests(*columns), sources, histories, max_events=max_events)


def check_memory(num_sequences: int, num_histories: int) -> None:
    """Refuse so many sequences that their plan alone would not fit into this machine's memory.

    Raises:
        ValueError: the sentence says what they want.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (wanted := num_sequences * num_histories * BYTES_EACH) > memory:
        each = "" if num_histories == 1 else f" for each of {num_histories:,} histories"
        raise ValueError(
            f"num_sequences = {num_sequences:,}{each} wants {wanted / 2**30:,.0f} GiB before the first event is drawn, "
            f"of {memory / 2**30:,.0f} GiB that this machine has; draw them by several calls, each with its own "
            "first_index, or by `tppsd predict`, which writes them in shards"
        )


def as_sequences(history: Any, statistics: DataStatistics | None = None) -> list[EventSequence]:
    """Return histories as a list.

    Args:
        history: one or several EventSequence, an EventBatch, or a table, which is read in the words of the model's data
            (tppsd.read_histories).
        statistics: of the model's data.

    Raises:
        TypeError: it is none.
        ValueError: it is empty, or a table that is not of the model's data.
    """
    if not isinstance(history, EventSequence | EventBatch | list | tuple):
        from tppsd.data.named import is_table, read_histories  # what reads files is loaded where it is of use

        if is_table(history):
            return read_histories(history, statistics)
    if isinstance(history, EventSequence):
        return [history]
    if isinstance(history, EventBatch):
        return [history.sequence(i) for i in range(len(history.t_start))]
    if not isinstance(history, Iterable):
        raise TypeError(
            f"history is a {type(history).__name__}; it must be an EventSequence (see EventSequence.of) or several"
        )
    sources = list(history)
    if not sources:
        raise ValueError("history is an empty list; give at least one sequence, or None to sample from scratch")
    for i, source in enumerate(sources):
        if not isinstance(source, EventSequence):
            raise TypeError(
                f"history {i} is a {type(source).__name__}; it must be an EventSequence (see EventSequence.of)"
            )
    return sources


def _given(
    history: Any, history_lookback: float | str | None, statistics: DataStatistics | None
) -> list[EventSequence]:
    """Return what is continued, as far as the model has seen the like, or as `history_lookback` says; empty = nothing.

    Raises:
        TypeError, ValueError: as `as_sequences`, or `history_lookback` is no length of time, or of nothing.
    """
    if history is None:
        if history_lookback is not None:
            raise ValueError(f"history_lookback = {history_lookback} is for a history, and there is none; leave it out")
        return []
    from tppsd.data.lookback import known_to  # of no use from scratch
    from tppsd.data.units import Clock

    reach = None
    if history_lookback is not None:
        reach = float(Clock(getattr(statistics, "time_unit", None)).duration(history_lookback, "history_lookback"))
    return known_to(statistics, as_sequences(history, statistics), reach)


def _from_scratch(
    num_sequences: int, t_start: Any, statistics: DataStatistics | None, seed: int, first_index: int
) -> tuple[list[EventSequence], Tensor]:
    """Return distinct starts, and which of them each sequence has, int64 (num_sequences,).

    They are empty windows or, where the first event of the data is given, ones that start at a drawn first mark.
    """
    starts = _per_sequence("t_start", 0.0 if t_start is None else t_start, num_sequences)
    if statistics is None or not statistics.first_is_given:
        values, which = starts.unique(return_inverse=True)
        return [EventSequence.of([], t_start=start) for start in values.tolist()], which
    index = first_index + torch.arange(num_sequences)
    keys = row_keys(seed, torch.full_like(index, FROM_SCRATCH), index)
    pick = uniforms(keys, torch.zeros_like(index), torch.tensor(address(0, Purpose.FIRST_MARK)))[:, 0]
    cumulative = torch.tensor(statistics.first_mark_counts, dtype=torch.float64).cumsum(0)
    if not cumulative[-1] > 0:
        raise ValueError(
            "the training split has no first event of its own (each is given by a score_start), so that there is no "
            "first mark to draw: continue a history"
        )
    marks = torch.searchsorted(cumulative, pick * cumulative[-1])
    first_events, which = torch.stack([starts, marks.double()], 1).unique(dim=0, return_inverse=True)
    return [EventSequence.of([start], [int(mark)]) for start, mark in first_events.tolist()], which


def _per_sequence(name: str, value: Any, num: int) -> Tensor:
    """Return one number per sequence, float64 (num,)."""
    try:
        values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} = {value!r} must be a number, or one number per sequence") from None
    if len(values) not in (1, num):
        raise ValueError(f"{name} has {len(values)} values for {num} sequences; give one value or one per sequence")
    if values.isnan().any():
        raise ValueError(f"{name} is NaN; it must be a number")
    return values.expand(num)


def _ends(starts: Tensor, t_end: Any, horizon: Any) -> Tensor:
    """Return the ends of sequences that are observed until `starts` (n,), float64 (n,)."""
    ends = torch.full_like(starts, torch.inf) if t_end is None else _per_sequence("t_end", t_end, len(starts))
    if horizon is not None:
        horizons = _per_sequence("horizon", horizon, len(starts))
        if horizons.min() < 0:
            raise ValueError(f"horizon = {float(horizons.min())} must not be negative")
        ends = torch.minimum(ends, starts + horizons)
    for i in (ends < starts).nonzero().flatten()[:1].tolist():
        raise ValueError(
            f"sequence {i}: t_end = {float(ends[i])} lies before {float(starts[i])}, up to which the sequence is "
            "already observed"
        )
    return ends


def _limits(num: int, num_events: Any) -> Tensor:
    """Return the largest number of events per sequence, int64 (num,)."""
    if num_events is None:
        return torch.full((num,), NO_LIMIT)
    counts = _per_sequence("num_events", num_events, num)
    for count in counts[~(counts.isfinite() & (counts >= 1) & (counts == counts.floor()))][:1].tolist():
        raise ValueError(f"num_events = {count:g} must be a whole number of at least 1")
    return torch.where(counts < NO_LIMIT, counts, 0).long() + torch.where(counts < NO_LIMIT, 0, NO_LIMIT)


def _encode(sources: list[EventSequence], num_marks: int, device: torch.device) -> Histories:
    batch = EventBatch.from_sequences(sources).to(device)
    tokens = EventTokens.from_batch(batch, num_marks)
    lengths = batch.lengths + 1
    elapsed: Tensor = batch.t_end - batch.last_times
    return Histories(tokens, lengths, batch.t_start, elapsed)
