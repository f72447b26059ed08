"""From the arguments of `sample` to requests: histories as tokens, one end per sequence, every mistake named."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventBatch, EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.models.protocol import EventTokens
from tppsd.sampling.checks import whole_number
from tppsd.sampling.noise import Purpose, address, row_keys, uniforms

FROM_SCRATCH = -1  # history_index of a sequence that continues nothing


class Request(NamedTuple):
    """One sequence to sample, the `number`-th of all. Times are absolute; `history` indexes the job's list of histories.

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


class RequestPlan(NamedTuple):
    """What a call will sample: `sources[r.history]` is what request r continues.

    Fields: requests; sources; histories; stop_marks bool (num_marks,): marks of which the first event ends a sequence, or
    None; forbid_marks: likewise, those that do not happen; max_events: safety bound of each sequence.
    """

    requests: list[Request]
    sources: list[EventSequence]
    histories: Histories
    stop_marks: Tensor | None = None
    forbid_marks: Tensor | None = None
    max_events: int = sys.maxsize


def plan_requests(
    history: EventSequence | Sequence[EventSequence] | EventBatch | None,
    num_sequences: int,
    t_start: Any,
    t_end: Any,
    horizon: Any,
    num_events: Any,
    max_events: int,
    num_marks: int,
    statistics: DataStatistics | None,
    seed: int,
    first_index: int,
    device: torch.device,
) -> RequestPlan:
    """Requests in index order: `num_sequences` from scratch, or that many paths of each history.

    Raises:
        ValueError: an argument is out of place; the sentence names it and its value.
    """
    num_sequences = whole_number("num_sequences", num_sequences, 1)
    first_index = whole_number("first_index", first_index, 0, 2**62 // num_sequences)  # so that every index has 64 bits
    max_events = sys.maxsize if max_events == math.inf else whole_number("max_events", max_events, 1)
    if t_end is None and horizon is None and num_events is None:
        raise ValueError("sampling needs an end: give t_end, horizon or num_events")
    if history is None:
        sources, which = _from_scratch(num_sequences, t_start, statistics, seed, first_index)
        identity = [(FROM_SCRATCH, first_index + i) for i in range(num_sequences)]
    else:
        if t_start is not None:
            raise ValueError(
                f"t_start = {t_start} was given together with a history, whose window it already has; leave it out"
            )
        sources = as_sequences(history)
        identity = [(first_index + h, p) for h in range(len(sources)) for p in range(num_sequences)]
        which = [h for h in range(len(sources)) for _ in range(num_sequences)]
    for i, source in enumerate(sources):
        if len(source) and not 0 <= int(source.marks.min()) <= int(source.marks.max()) < num_marks:
            raise ValueError(
                f"history {i}: marks must be in 0..{num_marks - 1} (the model's num_marks), found {int(source.marks.max())}"
            )
    window_ends = [source.window_end for source in sources]
    ends = _ends([window_ends[h] for h in which], t_end, horizon)
    given_first = history is None and sources[0].first_is_given  # counts among the events, but is not sampled
    limits, most = [limit - given_first for limit in _limits(len(which), num_events)], max_events - given_first
    base = first_index if history is None else first_index * num_sequences
    requests = [
        Request(base + i, source, h, p, end, min(limit, most), limit > most)
        for i, (source, (h, p), end, limit) in enumerate(zip(which, identity, ends, limits, strict=True))
    ]
    return RequestPlan(requests, sources, _encode(sources, num_marks, device), max_events=max_events)


def as_sequences(history: EventSequence | Sequence[EventSequence] | EventBatch) -> list[EventSequence]:
    """Histories as a list; what is none is refused."""
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


def _from_scratch(
    num_sequences: int, t_start: Any, statistics: DataStatistics | None, seed: int, first_index: int
) -> tuple[list[EventSequence], list[int]]:
    """Distinct starts, and which of them each sequence has: empty windows or, where the first event of the data is
    given, ones that start at a drawn first mark."""
    starts = _per_sequence("t_start", 0.0 if t_start is None else t_start, num_sequences)
    if statistics is None or not statistics.first_is_given:
        distinct = {start: i for i, start in enumerate(dict.fromkeys(starts))}
        return [EventSequence.of([], t_start=start) for start in distinct], [distinct[start] for start in starts]
    index = first_index + torch.arange(num_sequences)
    keys = row_keys(seed, torch.full_like(index, FROM_SCRATCH), index)
    pick = uniforms(keys, torch.zeros_like(index), torch.tensor(address(0, Purpose.FIRST_MARK)))[:, 0]
    cumulative = torch.tensor(statistics.first_mark_counts, dtype=torch.float64).cumsum(0)
    if not cumulative[-1] > 0:
        raise ValueError(
            "the training split has no first event of its own (each is given by a score_start), so that there is no first "
            "mark to draw: continue a history"
        )
    marks = torch.searchsorted(cumulative, pick * cumulative[-1]).tolist()
    first_events = list(zip(starts, marks, strict=True))
    numbered = {event: i for i, event in enumerate(dict.fromkeys(first_events))}
    return [EventSequence.of([start], [mark]) for start, mark in numbered], [numbered[event] for event in first_events]


def _per_sequence(name: str, value: Any, num: int) -> list[float]:
    try:
        values = torch.as_tensor(value, dtype=torch.float64).reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} = {value!r} must be a number, or one number per sequence") from None
    if len(values) not in (1, num):
        raise ValueError(f"{name} has {len(values)} values for {num} sequences; give one value or one per sequence")
    if any(math.isnan(v) for v in values):
        raise ValueError(f"{name} is NaN; it must be a number")
    return values * num if len(values) == 1 else values


def _ends(starts: list[float], t_end: Any, horizon: Any) -> list[float]:
    ends = [math.inf] * len(starts)
    if t_end is not None:
        ends = _per_sequence("t_end", t_end, len(starts))
    if horizon is not None:
        horizons = _per_sequence("horizon", horizon, len(starts))
        if min(horizons) < 0:
            raise ValueError(f"horizon = {min(horizons)} must not be negative")
        ends = [min(end, start + h) for end, start, h in zip(ends, starts, horizons, strict=True)]
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end < start:
            raise ValueError(
                f"sequence {i}: t_end = {end} lies before {start}, up to which the sequence is already observed"
            )
    return ends


def _limits(num: int, num_events: Any) -> list[int]:
    if num_events is None:
        return [sys.maxsize] * num
    counts = _per_sequence("num_events", num_events, num)
    for count in counts:
        if not (count >= 1 and count.is_integer()):
            raise ValueError(f"num_events = {count:g} must be a whole number of at least 1")
    return [int(c) for c in counts]


def _encode(sources: list[EventSequence], num_marks: int, device: torch.device) -> Histories:
    batch = EventBatch.from_sequences(sources).to(device)
    tokens = EventTokens.from_batch(batch, num_marks)
    lengths = batch.lengths + 1
    elapsed: Tensor = batch.t_end - batch.last_times
    return Histories(tokens, lengths, batch.t_start, elapsed)
