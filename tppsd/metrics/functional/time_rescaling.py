"""Time rescaling: under the right distribution, compensators between events are i.i.d. Exp(1).

Windows may be censored.

Source: Brown, Barbieri, Ventura, Kass and Frank, "The time-rescaling theorem and its application to neural spike train
data analysis", Neural Computation 14 (2002).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-6  # -log S(tau) + log S(elapsed) of a short interval may round to a tiny negative number


@dataclass(frozen=True, eq=False)
class SequenceResiduals:
    """Holds what one sequence contributes to the tests of a distribution.

    Attributes:
        index: place of the sequence in its data set or request; it fixes the order of concatenation.
        gaps: float64 (num_events,), Lambda(t_i) - Lambda(t_{i-1}) of every scored event, without unit.
        leftover: Lambda(t_end) - Lambda(t_N), the whole compensator if there is no event, 0 if the sequence ended by
            its number of events.
        mark_uniforms: float64 (num_events,), randomised PITs of the marks; empty where the marks are not tested.
        expected_times: float64 (num_events + 1,), E[log tau] of every scored interval, that of the leftover included.
        expected_marks: float64 (num_events,), the mean of the mark's number given its history and inter-time.
    """

    index: int
    gaps: Tensor
    leftover: float
    mark_uniforms: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    expected_times: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    expected_marks: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))


class KSResult(NamedTuple):
    """sup_x |F_n(x) - F(x)|, its exact two-sided p-value, and n. Both are NaN where n = 0."""

    statistic: float
    p_value: float
    num_events: int


def carry_over(residuals: Iterable[SequenceResiduals]) -> Tensor:
    """Gaps of the concatenated sequences, float64 (num_events,): exactly i.i.d. Exp(1) under the right distribution.

        gap_1 of sequence s = z_1 + (leftovers since the last sequence with an event), gap_i = z_i for i > 1

    A window's end censors its last interval, so the z_i of short windows are too small. What is left of the compensator
    is the beginning of an Exp(1) interval, which the next sequence completes. The last leftover has no successor and
    is dropped, which a test on at least 1,000 gaps does not notice.

    The order is by `index`: any order that depends on the outcome (by length, by time of completion) destroys the
        distribution.

    Raises:
        ValueError: two sequences with the same index, or a residual that is NaN or negative.

    Example:
        >>> one = SequenceResiduals(0, torch.tensor([0.5, 1.5]), leftover=0.25)
        >>> two = SequenceResiduals(1, torch.tensor([1.0]), leftover=2.0)
        >>> carry_over([one, two])
        tensor([0.5000, 1.5000, 1.2500], dtype=torch.float64)
    """
    rows = sorted(residuals, key=lambda row: row.index)
    if not rows:
        return torch.empty(0, dtype=torch.float64)
    gaps = torch.cat([row.gaps.double() for row in rows])
    lengths = torch.tensor([len(row.gaps) for row in rows])
    leftovers = torch.tensor([row.leftover for row in rows], dtype=torch.float64)
    _check(torch.tensor([row.index for row in rows]), gaps, lengths, leftovers)
    receiver = (lengths > 0).cumsum(0)  # the leftover of a sequence goes to this one of the sequences with events
    carried = torch.zeros(int(receiver[-1]) + 1, dtype=torch.float64).index_add_(0, receiver, leftovers)
    first = (lengths.cumsum(0) - lengths)[lengths > 0]
    return gaps.index_add(0, first, carried[:-1])


def carried_forecasts(residuals: Iterable[SequenceResiduals]) -> Tensor:
    """Return the distribution's E[log tau] when each gap of `carry_over` began, float64 (num_events,).

    Under the right distribution a gap is Exp(1) whatever was known at its beginning, so it does not depend on this
    forecast; a sampler that looked at another history shows here first. A gap that was carried over began in an earlier
    sequence: its forecast is that one's (the later one would tell that the gap was cut, and long gaps are cut more
        often).

    Example:
        >>> none = torch.empty(0)
        >>> one = SequenceResiduals(0, torch.tensor([0.5]), 0.25, none, expected_times=torch.tensor([-1.0, -2.0]))
        >>> two = SequenceResiduals(1, torch.tensor([1.0]), 2.0, none, expected_times=torch.tensor([-3.0, -4.0]))
        >>> carried_forecasts([one, two])  # the second gap began in the first sequence
        tensor([-1., -2.])
    """
    forecasts, pending = [], None
    for row in sorted(residuals, key=lambda row: row.index):
        expected = row.expected_times
        if len(row.gaps):
            own = expected[:-1].clone()
            if pending is not None:
                own[0] = pending
            forecasts.append(own)
        if row.leftover > 0:
            pending = pending if pending is not None and not len(row.gaps) else expected[-1]
        elif len(row.gaps):
            pending = None
    return torch.cat(forecasts) if forecasts else torch.empty(0, dtype=torch.float64)


def _check(index: Tensor, gaps: Tensor, lengths: Tensor, leftovers: Tensor) -> None:
    twice = index[1:][index.diff() == 0]
    if len(twice):
        raise ValueError(f"index {twice[0].item()} occurs twice among the residuals; every sequence needs its own")
    values = torch.cat([gaps, leftovers])
    wrong = ~((values >= -_ROUNDING) & values.isfinite())
    if wrong.any():
        owner = torch.cat([index.repeat_interleave(lengths), index])[wrong][0]
        raise ValueError(f"sequence {owner}: a residual is {values[wrong][0]}; compensators grow and are finite")


def ks_uniform(uniforms: Tensor) -> KSResult:
    """Test U(0, 1) by Kolmogorov and Smirnov.

        D = max_i max(i/n - u_(i), u_(i) - (i-1)/n),  p = P(D_n >= D) under i.i.d. uniforms (exact distribution)

    Args:
        uniforms: (num_events,) in [0, 1].

    Raises:
        ValueError: a value outside [0, 1] or NaN.

    Example:
        >>> result = ks_uniform(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
        >>> round(result.statistic, 3), result.num_events
        (0.1, 5)
    """
    num_events = uniforms.numel()
    if num_events == 0:
        return KSResult(float("nan"), float("nan"), 0)
    u = uniforms.detach().double().flatten().cpu()
    low, high = u.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"uniforms lie between {low.item()} and {high.item()}; a uniform must be a number in [0, 1]")
    statistic = float(ks_distance(u, torch.ones_like(u)))
    from scipy.stats import kstwo

    return KSResult(statistic, float(kstwo.sf(statistic, num_events)), num_events)


def ks_distance(uniforms: Tensor, weights: Tensor) -> Tensor:
    """Return the distance of Kolmogorov and Smirnov from U(0, 1) where values count several times, float64 ().

        D = max_i max(W_i / W - u_(i), u_(i) - W_(i-1) / W),   W_i = sum of the weights of u_(1), ..., u_(i)

    With weights 1 it is the statistic of `ks_uniform`. It serves for a bootstrap, whose replicates lie above the value
    as a rule: they deviate from the data as these do from uniform numbers.

    Args:
        uniforms: (num_events,) in [0, 1].
        weights: (num_events,), not all 0.

    Example:
        >>> ks_distance(torch.tensor([0.2, 0.6]), weights=torch.tensor([3, 1]))
        tensor(0.5500, dtype=torch.float64)
    """
    u, order = uniforms.double().sort()
    ends = torch.nn.functional.pad(weights.double()[order].cumsum(0), (1, 0))
    steps = ends / ends[-1]
    return torch.maximum(steps[1:] - u, u - steps[:-1]).max()


def ks_exponential(gaps: Tensor) -> KSResult:
    """Test Exp(1) by Kolmogorov and Smirnov: `ks_uniform` of u = 1 - exp(-gap), (num_events,).

    Example:
        >>> gaps = torch.empty(1000, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
        >>> ks_exponential(gaps).p_value > 0.01, ks_exponential(1.2 * gaps).p_value < 1e-4
        (True, True)
    """
    return ks_uniform(-torch.expm1(-gaps.double().clamp_min(0)))


def ks_band(num_events: int, level: float = 0.95) -> float:
    """Return the half width of the band that holds F_n - F everywhere with probability `level`.

    It is about 1.36 / sqrt(n) at 0.95.

    Example:
        >>> round(ks_band(1000), 3)
        0.043
    """
    from scipy.stats import kstwo

    return float(kstwo.isf(1 - level, num_events))


class IndependenceResult(NamedTuple):
    """Holds Pearson's chi-square, its p-value, its degrees of freedom and the number of pairs."""

    statistic: float
    p_value: float
    dof: int
    num_pairs: int


def lag1_independence(uniforms: Tensor, num_bins: int = 8) -> IndependenceResult:
    """Test the pairs (u_i, u_{i+1}) by a contingency table on an m x m grid.

        X2 = sum_ab (n_ab - n_a. n_.b / n)^2 / (n_a. n_.b / n)  ~  chi-square with (m - 1)^2 degrees of freedom

    Successive pairs overlap. With the expected counts taken from the margins, X2 has the limit of a table of
    independent pairs all the same: it tests order 0 against order 1 of a Markov chain. Source: Anderson and Goodman,
    Ann. Math. Stat. 28 (1957).

    Args:
        uniforms: (num_events,) in [0, 1], i.i.d. under the null hypothesis: 1 - exp(-gap) of the gaps of `carry_over`,
            or mark PITs in the order of index.
        num_bins: m.

    Raises:
        ValueError: fewer than 5 pairs per cell, below which the limit is a poor guide; a value that is not in [0, 1].

    Example:
        >>> uniforms = torch.rand(2000, generator=torch.Generator().manual_seed(0))
        >>> lag1_independence(uniforms).p_value > 0.01, lag1_independence(uniforms.sort().values).p_value < 1e-6
        (True, True)
    """
    return pair_independence(uniforms[:-1], uniforms[1:], num_bins)


def pair_independence(first: Tensor, second: Tensor, num_bins: int = 8) -> IndependenceResult:
    """Test pairs (first_i, second_i), both (num_pairs,) in [0, 1], by the same contingency table.

    Rows and columns of the grid without any value do not count; where one is left, nothing can be tested: p is NaN.

    Example:
        >>> first, second = torch.rand(2, 2000, generator=torch.Generator().manual_seed(0))
        >>> pair_independence(first, second).p_value > 0.01, pair_independence(first, first).p_value < 1e-6
        (True, True)
    """
    num_pairs = first.numel()
    if num_pairs < 5 * num_bins**2:
        raise ValueError(
            f"{num_pairs} pairs are too few for a {num_bins} x {num_bins} grid; it needs at least {5 * num_bins**2}"
        )
    pairs = torch.stack([first, second]).detach().double().cpu()
    if not ((pairs >= 0) & (pairs <= 1)).all():
        wrong = pairs[~((pairs >= 0) & (pairs <= 1))][0].item()
        raise ValueError(f"a residual is {wrong}; they must be numbers in [0, 1]")
    rows, columns = (pairs * num_bins).long().clamp_max(num_bins - 1)
    table = torch.bincount(rows * num_bins + columns, minlength=num_bins**2).double().view(num_bins, num_bins)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / num_pairs
    statistic = float(((table - expected) ** 2 / expected).nan_to_num(0.0).sum())
    from scipy.stats import chi2

    dof = math.prod(int((table.sum(dim) > 0).sum()) - 1 for dim in (0, 1))
    return IndependenceResult(statistic, float(chi2.sf(statistic, dof)) if dof else math.nan, dof, num_pairs)
