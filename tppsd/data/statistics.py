"""Statistics of a training split that a model must know: moments, scales and frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.sequences import EventSequence

MOST_MARKS = 2**20  # beyond, memory runs out long before anything is learnt of most of them
_LATER = ("time_origin", "window", "lookback", "max_inter_time")  # fields that first checkpoints did not have


@dataclass(frozen=True)
class DataStatistics:
    """Holds statistics of a training split; stored inside the model and its checkpoint.

    Attributes:
        num_marks: size of the mark vocabulary (1 = unmarked).
        log_mean, log_std: mean and standard deviation of log tau over events with a likelihood term (ties at the
            floor).
        time_scale: mean inter-time; the encoders see times divided by it.
        min_inter_time: declared floor of tau in training and scoring (0 = none); samples are never floored.
        num_events, duration: events with a likelihood term and total length of the scored parts of the windows.
        num_ties: inter-times at or below the floor.
        first_is_given: the data have no `t_start`; from-scratch sampling then draws a first mark.
        mark_counts, first_mark_counts: per mark, over scored events and over first events that do not come before a
            `score_start`.
        mark_names: original labels of the marks, or None.
        time_unit: name of the unit of time, or None.
        time_origin: the timestamp (ISO 8601, UTC) that is time 0, or None where times are numbers.
        window, lookback: length of the windows that a stream was cut into, and of the history before each, in units of
            time, or None.
        max_inter_time: the longest inter-time of an event with a likelihood term, 0 where that is not known.
    """

    num_marks: int
    log_mean: float = 0.0
    log_std: float = 1.0
    time_scale: float = 1.0
    min_inter_time: float = 0.0
    num_events: int = 0
    duration: float = 0.0
    num_ties: int = 0
    first_is_given: bool = False
    mark_counts: tuple[int, ...] = ()
    first_mark_counts: tuple[int, ...] = ()
    mark_names: tuple[str, ...] | None = None
    time_unit: str | None = None
    time_origin: str | None = None
    window: float | None = None
    lookback: float | None = None
    max_inter_time: float = 0.0

    @property
    def rate(self) -> float | None:
        """Events per unit of time, as of the Poisson process; None without events or without time."""
        return self.num_events / self.duration if self.num_events and self.duration > 0 else None

    @property
    def horizon(self) -> float:
        """The longest inter-time of the training split, in the unit of time.

        Where it is not known (in checkpoints of before) it is exp(log_mean + 4 log_std). The data say nothing about
        what a distribution does beyond it: means and the CRPS are capped at it.
        """
        return self.max_inter_time or math.exp(self.log_mean + 4 * self.log_std)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, so that a checkpoint loads with `weights_only=True`.

        Those of _LATER that are not known are left out, so that a model of before keeps its content hash.
        """
        known = {k: v for k, v in asdict(self).items() if v or k not in _LATER}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataStatistics:
        """Return the statistics that `to_dict` has given."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @classmethod
    def of(
        cls,
        sequences: Iterable[EventSequence],
        num_marks: int,
        min_inter_time: float = 0.0,
        mark_names: tuple[str, ...] | None = None,
        time_unit: str | None = None,
    ) -> DataStatistics:
        """Compute statistics of `sequences` (the training split, never validation or test)."""
        flat = FlatSequences.of(sequences)
        sums = _Sums(num_marks, min_inter_time)
        for block in flat.blocks():
            sums.add(block)
        if sums.num_events == 0:
            raise ValueError("the training split has no event with a likelihood term; at least one is needed")
        if sums.num_positive == 0:
            raise ValueError("every inter-time of the training split is 0; declare a floor with min_inter_time")
        log_mean, log_variance = sums.log_moments
        log_std, time_scale = math.sqrt(log_variance), sums.moments[0]
        if not math.isfinite(sums.duration) or not math.isfinite(time_scale):
            raise ValueError(
                f"the times of the training split add up to more than float64 can hold (the longest inter-time is "
                f"{sums.longest:.6g}); give them in a coarser unit"
            )
        return cls(
            num_marks=num_marks,
            log_mean=log_mean,
            log_std=log_std if log_std > 1e-6 and math.isfinite(log_std) else 1.0,
            time_scale=time_scale,
            min_inter_time=float(min_inter_time),
            num_events=sums.num_events,
            duration=sums.duration,
            num_ties=sums.num_ties,
            first_is_given=bool(flat.first_is_given.any()),
            mark_counts=tuple(sums.mark_counts.tolist()),
            first_mark_counts=tuple(sums.first_mark_counts.tolist()),
            mark_names=mark_names,
            time_unit=time_unit,
            max_inter_time=sums.longest,
        )


class _Sums:
    """Adds up what statistics are made of, block by block of a split.

    Means and variances are put together as by Chan, Golub and LeVeque (1979); of one block they are its own to the bit.
    """

    def __init__(self, num_marks: int, min_inter_time: float) -> None:
        self.floor = min_inter_time
        self.num_events = self.num_positive = self.num_ties = 0
        self.duration = self.longest = 0.0
        self.moments = self.log_moments = (0.0, 0.0)  # mean and variance of positive inter-times and of their logs
        self.mark_counts, self.first_mark_counts = (torch.zeros(num_marks, dtype=torch.int64) for _ in range(2))

    def add(self, flat: FlatSequences) -> None:
        """Add the scored events of a block."""
        inter_times, num_marks = flat.of_scored(flat.inter_times), len(self.mark_counts)
        positive = inter_times.clamp_min(self.floor) if self.floor > 0 else inter_times[inter_times > 0]
        self.num_events += len(inter_times)
        self.num_ties += int((inter_times <= self.floor).sum())
        self.duration = sum((flat.window_end - flat.scored_from).tolist(), self.duration)
        self.mark_counts += torch.bincount(flat.of_scored(flat.marks), minlength=num_marks)
        first_marks = flat.marks[flat.offsets[:-1][_starts_unseen(flat)]]
        self.first_mark_counts += torch.bincount(first_marks, minlength=num_marks)
        if len(positive):
            self.longest = max(self.longest, float(positive.max()))
            self.moments = _joined(self.moments, self.num_positive, positive)
            self.log_moments = _joined(self.log_moments, self.num_positive, positive.log())
            self.num_positive += len(positive)


def _joined(moments: tuple[float, float], num: int, values: Tensor) -> tuple[float, float]:
    """Return mean and variance of `num` values that have these moments and of others together."""
    mean, variance = float(values.mean()), float(values.var(correction=0))
    if num == 0:
        return mean, variance
    share = len(values) / (num + len(values))
    difference = mean - moments[0]
    spread = (1 - share) * moments[1] + share * variance + share * (1 - share) * difference**2
    return moments[0] + share * difference, spread


def _starts_unseen(flat: FlatSequences) -> Tensor:
    """Say which sequences have a first event that no `score_start` and no cut gives: it counts among first marks."""
    has_events = flat.lengths > 0
    is_before = torch.zeros_like(has_events)
    is_before[has_events] = flat.event_times[flat.offsets[:-1][has_events]] < flat.score_start[has_events]
    return has_events & ~flat.censored_start & ~is_before
