"""The strongest classical baseline of a test, a Hawkes process fitted to the training split, and who beats whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from tppsd.data.memory import is_out_of_memory
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.metrics.functional import process_nll
from tppsd.processes.hawkes_bounded import fit_bounded, floored

POISSON, RENEWAL, HAWKES = "a Poisson process", "the best renewal model", "a fitted Hawkes process"


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
    """Fit a Hawkes process to `train` and score it on `test`; None where that cannot be, which is said.

    It is the maximum likelihood fit on the default grid of decays, with one event of each mark added, so that a mark
    that the training split lacks costs much, but not everything. Inter-times are floored at the statistics'
    `min_inter_time` in both, as in every other score. So that a test does not wait for it, many marks get fewer decays
    and large splits are represented by some of their sequences. Too many marks, or too little memory, leave none: it is
    only a baseline.
    """
    try:
        fit = fit_bounded(train, statistics)
        if fit is None:
            rank_zero_info(f"no Hawkes process is fitted: {statistics.num_marks} marks are too many")
            return None
        nll = process_nll(fit.process, (floored(sequence, statistics.min_inter_time) for sequence in test))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rank_zero_info("no Hawkes process is fitted: there is not enough memory for it")
        return None
    return HawkesScore(nll, fit.branching_ratio, len(fit.process.beta), fit.num_events)


def describe_hawkes(score: HawkesScore) -> str:
    """Name the process for a sentence: how it was fitted, and how near to explosion it is."""
    return (
        f"a Hawkes process fitted with {score.num_decays} decays to {score.num_events} events, "
        f"of branching ratio {score.branching_ratio:.2f}"
    )


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


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
