"""Serial correlation of inter-times: the simplest trace of memory in a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence

_NUM_RESAMPLES = 500


class Lag1Correlation(NamedTuple):
    """Holds the Pearson correlation of (tau_i, tau_{i+1}), its bootstrap standard error, and the number of pairs."""

    correlation: float
    standard_error: float
    num_pairs: int


def lag1_correlation(sequences: Sequence[EventSequence], seed: int = 0) -> Lag1Correlation:
    """Return the correlation of successive inter-times within sequences, pooled over sequences.

        r = sum (x - mean x)(y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2),  (x, y) = (tau_i, tau_{i+1})

    The standard error resamples whole sequences with replacement (events within one depend on each other).
    Given events are left out. Windows censor long intervals, so compare only samples from windows
    of the same length. Both are NaN where no sequence has two scored events or inter-times do not vary, the standard
    error also where only one has.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8 (clusters).

    Example:
        >>> sequence = EventSequence.of([1.0, 4.0, 5.0, 8.0, 9.0, 12.0], t_start=0.0)  # short and long gaps by turns
        >>> round(float(lag1_correlation([sequence]).correlation), 2)
        -1.0
    """
    inter_times = [s.inter_times[s.num_given :].double() for s in sequences]
    inter_times = [tau for tau in inter_times if len(tau) >= 2]
    if not inter_times:
        return Lag1Correlation(float("nan"), float("nan"), 0)
    centre = torch.cat(inter_times).mean()  # subtracted beforehand, so that the sums of squares lose no digits
    moments = torch.stack([_moments(tau - centre) for tau in inter_times])  # (num_sequences, 6)
    num_sequences = len(moments)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_sequences, (_NUM_RESAMPLES, num_sequences), generator=generator)
    multiplicity = torch.zeros(_NUM_RESAMPLES, num_sequences, dtype=torch.float64)
    multiplicity.scatter_add_(1, drawn, torch.ones_like(multiplicity))
    resampled = _correlation(multiplicity @ moments)
    total = moments.sum(0)
    standard_error = float(resampled.std()) if num_sequences > 1 else math.nan
    return Lag1Correlation(float(_correlation(total)), standard_error, int(total[0]))


def _moments(tau: Tensor) -> Tensor:
    """Return (n, sum x, sum y, sum x^2, sum y^2, sum xy) of the lag-1 pairs of one sequence."""
    x, y = tau[:-1], tau[1:]
    return torch.stack([x.new_tensor(len(x)), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _correlation(moments: Tensor) -> Tensor:
    n, x, y, xx, yy, xy = moments.unbind(-1)
    return (n * xy - x * y) / ((n * xx - x * x) * (n * yy - y * y)).sqrt()
