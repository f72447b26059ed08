"""Windows cut in two, and wrong ideas of what is given in the second part: mutants of the scored part of a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch

from tppsd.data.batch import EventBatch
from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.sequences import EventSequence


def cut_in_two(sequence: EventSequence, s: float) -> list[EventSequence]:
    """The window until `s`, and the rest given all of it: an event at `s` is in the rest."""
    before = int((sequence.event_times < s).sum())
    return [sequence.prefix(before, t_end=s), replace(sequence, score_start=s, index=sequence.index + 1)]


def places_to_cut(sequence: EventSequence) -> list[float]:
    """Before, between, at and after the events; where the first event is given, after it."""
    times = sequence.event_times
    middles = 0.5 * (times[1:] + times[:-1])
    ends = torch.tensor([0.5 * (sequence.window_start + float(times[0])), float(times[-1]) + 0.1], dtype=torch.float64)
    places = torch.cat([times, middles, ends]).unique()
    earliest = float(times[0]) if sequence.first_is_given else sequence.window_start
    return places[(places > earliest) & (places < sequence.window_end)].tolist()


def tiled(sequence: EventSequence, edges: list[float]) -> list[EventSequence]:
    """Windows [edge, next edge), the last one closed, each given all before it."""
    tiles = []
    for i, (start, stop) in enumerate(pairwise(edges)):
        is_last = i == len(edges) - 2
        count = len(sequence) if is_last else int((sequence.event_times < stop).sum())
        tiles.append(replace(sequence.prefix(count, t_end=stop), score_start=start if i else None, index=i))
    return tiles


def _property(owner: type, name: str, wrong: Callable[[Any], Any]) -> Any:
    return patch.object(owner, name, property(wrong))


def _scored_by_time(batch: EventBatch) -> torch.Tensor:
    return (batch.mask & (batch.event_times >= batch.score_start.unsqueeze(1))).sum(1)


OF_BATCHES: dict[str, Callable[[], Any]] = {
    "given events scored": lambda: _property(EventBatch, "scored", lambda batch: batch.mask),
    "truncation forgotten": lambda: _property(EventBatch, "scored_from", lambda batch: batch.last_given_times),
    "truncated after the start token": lambda: _property(
        EventBatch, "num_given", lambda batch: torch.zeros_like(batch.index)
    ),
    "scored from the window's start": lambda: _property(EventBatch, "scored_from", lambda batch: batch.t_start),
    "num_scored for lengths": lambda: _property(EventBatch, "lengths", _scored_by_time),
    "lengths for num_scored": lambda: _property(EventBatch, "num_scored", lambda batch: batch.lengths),
}
OF_SEQUENCES: dict[str, Callable[[], Any]] = {
    "given events scored": lambda: _property(EventSequence, "num_given", lambda s: int(s.first_is_given)),
    "truncation forgotten": lambda: _property(EventSequence, "scored_from", lambda s: s.last_given_time),
    "truncated since the window's start": lambda: _property(EventSequence, "last_given_time", lambda s: s.window_start),
    "scored from the window's start": lambda: _property(EventSequence, "scored_from", lambda s: s.window_start),
}
OF_FLAT_SEQUENCES: dict[str, Callable[[], Any]] = {
    "given events scored": lambda: _property(FlatSequences, "num_given", lambda flat: flat.first_is_given.long()),
    "scored from the window's start": lambda: _property(FlatSequences, "scored_from", lambda flat: flat.window_start),
    "a cut start forgotten": lambda: _property(FlatSequences, "scored_from", _scored_from_without_cuts),
}


def _scored_from_without_cuts(flat: FlatSequences) -> torch.Tensor:
    whole = replace(flat, censored_start=torch.zeros_like(flat.censored_start))
    return torch.stack([torch.tensor(row.scored_from, dtype=torch.float64) for row in whole])
