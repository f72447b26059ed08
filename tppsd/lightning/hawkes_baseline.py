"""The strongest classical baseline of a test, a Hawkes process fitted to the training split, and who beats whom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import process_nll
from tppsd.processes.hawkes import fit_hawkes
from tppsd.processes.hawkes_fit import default_decays

_PSEUDO_EVENTS = 1.0  # of each mark, as the Poisson baseline has them
_NUM_STEPS = 15  # of a fit, for each mark
_MAX_WORK = 1e11  # multiplications of a fit: 17 to 69 s on one core were measured at the limits
_MAX_NUMBERS = 5e7  # events x terms that are in memory, twice, in float64


class HawkesScore(NamedTuple):
    """Holds the score of a fitted Hawkes process.

    Fields:
        nll: NLL per event (`window` convention, nats).
        branching_ratio: spectral radius of its mean offspring; it explodes from 1 on.
        num_decays: how many decays it was fitted with.
        num_events: how many training events it was fitted to.
    """

    nll: float
    branching_ratio: float
    num_decays: int
    num_events: int


def score_hawkes(
    train: Sequence[EventSequence], test: Sequence[EventSequence], statistics: DataStatistics
) -> HawkesScore | None:
    """Fit a Hawkes process to `train` and score it on `test`; None where there are too many marks for a fit.

    It is the maximum likelihood fit on the default grid of decays, with one event of each mark added, so that a mark
    that the training split lacks costs much, but not everything. Inter-times are floored at the statistics'
    `min_inter_time` in both, as in every other score. So that a test does not wait for it, many marks get fewer decays
    and large splits are represented by some of their sequences.
    """
    floored_train, floored_test = ([_floored(s, statistics.min_inter_time) for s in part] for part in (train, test))
    decays = default_decays(floored_train)
    num_decays = next((n for n in range(len(decays), 0, -1) if _work(floored_train, statistics, n) <= _MAX_WORK), 0)
    if not num_decays:
        return None
    thinned = decays[torch.linspace(0, len(decays) - 1, num_decays).round().long()]
    rows = _some(floored_train, _num_events(floored_train, statistics, num_decays))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the branching ratio is reported instead
        fit = fit_hawkes(rows, statistics.num_marks, thinned, pseudo_events=_PSEUDO_EVENTS)
    return HawkesScore(process_nll(fit.process, floored_test), fit.branching_ratio, num_decays, fit.num_events)


def describe_hawkes(score: HawkesScore) -> str:
    """Name the process for a sentence: how it was fitted, and how near to explosion it is."""
    return (
        f"a Hawkes process fitted with {score.num_decays} decays to {score.num_events} events, "
        f"of branching ratio {score.branching_ratio:.2f}"
    )


def _num_events(train: Sequence[EventSequence], statistics: DataStatistics, num_decays: int) -> int:
    """Return how many training events a fit with so many decays has room for."""
    return min(sum(s.num_scored for s in train), int(_MAX_NUMBERS / (num_decays * statistics.num_marks)))


def _work(train: Sequence[EventSequence], statistics: DataStatistics, num_decays: int) -> float:
    """Count multiplications: a Hessian over the events and a linear system for each mark and step."""
    terms = float(num_decays * statistics.num_marks)
    return _NUM_STEPS * (_num_events(train, statistics, num_decays) * terms**2 + statistics.num_marks * terms**3)


def _some(train: Sequence[EventSequence], num_events: int) -> list[EventSequence]:
    """Return sequences with at most so many events, at least one, in an order that does not follow the split's."""
    rows: list[EventSequence] = []
    for i in torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist():
        num_events -= train[i].num_scored
        if num_events < 0 and rows:
            break
        rows.append(train[i])
    return rows


def compare(nll: float, baselines: Mapping[str, float]) -> str:
    """Say in a sentence which of the baselines a model with this NLL per event beats.

    Args:
        nll: of the model.
        baselines: name -> NLL per event, of the same events and convention.
    """
    beaten = [f"{name} ({score:.4f})" for name, score in baselines.items() if nll < score]
    others = [f"{name} ({score:.4f})" for name, score in baselines.items() if not nll < score]
    parts = [f"beats {_listed(beaten)}"] if beaten else []
    parts += [f"does not beat {_listed(others)}"] if others else []
    return f"the model's NLL of {nll:.4f} nats per event " + ", but ".join(parts)


def _floored(sequence: EventSequence, floor: float) -> EventSequence:
    """Return the sequence with no inter-time below `floor`, but a given first event's, which is none."""
    if floor <= 0:
        return sequence
    given = int(sequence.first_is_given)
    inter_times = sequence.inter_times.clone()
    inter_times[given:] = inter_times[given:].clamp_min(floor)
    return replace(sequence, inter_times=inter_times)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
