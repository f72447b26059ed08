"""The strongest classical yardstick of a test: a Hawkes process fitted to the training split, and who beats whom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import process_nll
from tppsd.processes.hawkes_fit import fit_hawkes

_PSEUDO_EVENTS = 1.0  # of each mark, as the Poisson baseline has them


class HawkesScore(NamedTuple):
    """NLL per event (`window` convention, nats) of a fitted Hawkes process, and its branching ratio."""

    nll: float
    branching_ratio: float


def score_hawkes(
    train: Sequence[EventSequence], test: Sequence[EventSequence], statistics: DataStatistics
) -> HawkesScore:
    """Fit a Hawkes process to `train` and score it on `test`.

    It is the maximum likelihood fit on the default grid of decays, with one event of each mark added, so that a mark
    that the training split lacks costs much, but not everything. Inter-times are floored at the statistics'
    `min_inter_time` in both, as in every other score.
    """
    floored_train, floored_test = ([_floored(s, statistics.min_inter_time) for s in part] for part in (train, test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the branching ratio is reported instead
        fit = fit_hawkes(floored_train, statistics.num_marks, pseudo_events=_PSEUDO_EVENTS)
    return HawkesScore(process_nll(fit.process, floored_test), fit.branching_ratio)


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
    """The same with no inter-time below `floor`, but a given first event's, which is none."""
    if floor <= 0:
        return sequence
    given = int(sequence.first_is_given)
    inter_times = sequence.inter_times.clone()
    inter_times[given:] = inter_times[given:].clamp_min(floor)
    return replace(sequence, inter_times=inter_times)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
