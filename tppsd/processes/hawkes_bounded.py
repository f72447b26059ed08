"""A Hawkes process fitted to a training split in bounded time and memory: the strongest classical baseline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.processes.hawkes_fit import HawkesFit, default_decays, fit_hawkes

_PSEUDO_EVENTS = 1.0  # of each mark, as the Poisson baseline has them
_NUM_STEPS = 15  # of a fit, for each mark
_MAX_WORK = 1e11  # multiplications of a fit: 17 to 69 s on one core were measured at the limits
_MAX_FOR_DECAYS = 2**20  # events of which the grid of decays is made
_MAX_NUMBERS = 5e7  # events x terms that are in memory, twice, in float64


def fit_bounded(train: Sequence[EventSequence], statistics: DataStatistics) -> HawkesFit | None:
    """Fit a Hawkes process by maximum likelihood on the default grid of decays; None where there are too many marks.

    One event of each mark is added, so that a mark that the training split lacks is rare, but not impossible.
    Inter-times are floored at the statistics' `min_inter_time`. Many marks get fewer decays, and large splits are
    represented by some of their sequences.
    """
    num_events, floor = int(FlatSequences.of(train).num_scored.sum()), statistics.min_inter_time
    decays = default_decays(_some(train, _MAX_FOR_DECAYS, floor))
    num_decays = next((n for n in range(len(decays), 0, -1) if _work(num_events, statistics, n) <= _MAX_WORK), 0)
    if not num_decays:
        return None
    thinned = decays[torch.linspace(0, len(decays) - 1, num_decays).round().long()]
    some = _some(train, _room(num_events, statistics, num_decays), floor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the branching ratio is reported instead
        return fit_hawkes(some, statistics.num_marks, thinned, pseudo_events=_PSEUDO_EVENTS)


def floored(sequence: EventSequence, floor: float) -> EventSequence:
    """Return the same with no inter-time below `floor`, but a given first event's, which is none."""
    if floor <= 0:
        return sequence
    given = int(sequence.first_is_given)
    inter_times = sequence.inter_times.clone()
    inter_times[given:] = inter_times[given:].clamp_min(floor)
    return replace(sequence, inter_times=inter_times)


def _room(num_events: int, statistics: DataStatistics, num_decays: int) -> int:
    """Return how many of so many training events a fit with so many decays has room for."""
    return min(num_events, int(_MAX_NUMBERS / (num_decays * statistics.num_marks)))


def _work(num_events: int, statistics: DataStatistics, num_decays: int) -> float:
    """Count multiplications: a Hessian over the events with room, and a linear system for each mark and step."""
    terms = float(num_decays * statistics.num_marks)
    return _NUM_STEPS * (_room(num_events, statistics, num_decays) * terms**2 + statistics.num_marks * terms**3)


def _some(train: Sequence[EventSequence], num_events: int, floor: float) -> list[EventSequence]:
    """Floored sequences with at most so many events, at least one, in an order that does not follow the split's."""
    rows: list[EventSequence] = []
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).numpy()
    for i in order:
        sequence = train[int(i)]
        num_events -= sequence.num_scored
        if num_events < 0 and rows:
            break
        rows.append(floored(sequence, floor))
    return rows
