"""Resampling of whole sequences, because events within one depend on each other: permutation tests and bootstraps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence


class BootstrapInterval(NamedTuple):
    """Holds a statistic, its standard error, and a percentile interval; each of the statistic's shape."""

    value: Tensor
    standard_error: Tensor
    lower: Tensor
    upper: Tensor


def bootstrap_interval(
    statistic: Callable[[Tensor], Tensor],
    num_sequences: int,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> BootstrapInterval:
    """Bootstrap a statistic of sequences that are independent of each other; events and origins within one are not.

        value = T(1, ..., 1),   replicate r = T(w_r),   w_r ~ Multinomial(n; 1/n, ..., 1/n)

    The interval has the (1 - level) / 2 quantiles of the replicates for ends. Replicates that are NaN, such as an AUROC
    without a positive case, are left out.

    Args:
        statistic: T, from how often each sequence counts, float64 (num_sequences,), to a tensor; for a mean over cases
            that is `lambda w: (w @ sums) / (w @ numbers)`, with sums and numbers of cases by sequence.
        num_sequences: n, at least 2.
        level: of the interval.
        num_resamples: replicates.
        seed: of the resampling; the global generator is neither read nor advanced.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 (clusters) and 13 (percentiles).

    Example:
        >>> errors = torch.tensor([1.0, 2.0, 4.0, 1.0, 2.0], dtype=torch.float64)  # one per sequence
        >>> found = bootstrap_interval(lambda w: (w @ errors) / w.sum(), num_sequences=5)
        >>> float(found.value), float(found.lower) < 2.0 < float(found.upper)
        (2.0, True)
    """
    if num_sequences < 2:
        raise ValueError(f"a bootstrap over sequences needs at least 2 of them; got {num_sequences}")
    generator = torch.Generator().manual_seed(seed)
    replicates = []
    for _ in range(num_resamples):
        drawn = torch.randint(num_sequences, (num_sequences,), generator=generator)
        replicates.append(statistic(torch.bincount(drawn, minlength=num_sequences).double()).double())
    values, tail = torch.stack(replicates), (1 - level) / 2
    is_number = ~values.isnan()
    mean = values.nanmean(0)
    deviations = torch.where(is_number, values - mean, 0.0).square().sum(0)
    return BootstrapInterval(
        statistic(torch.ones(num_sequences, dtype=torch.float64)).double(),
        (deviations / (is_number.sum(0) - 1)).sqrt(),
        values.nanquantile(tail, 0),
        values.nanquantile(1 - tail, 0),
    )


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


_CHUNK = 2**22  # elements of a block of permutations


class PermutationResult(NamedTuple):
    """Holds the observed statistic, p-value (at least 1 / (num_permutations + 1)) and the number of permutations."""

    statistic: float
    p_value: float
    num_permutations: int


def event_counts(sequences: Sequence[EventSequence]) -> Tensor:
    """Count the scored events of each sequence, float64 (num_sequences, 1).

    Example:
        >>> event_counts([EventSequence.of([1.0, 2.0], t_start=0.0), EventSequence.of([], t_start=0.0, t_end=1.0)])
        tensor([[2.],
                [0.]], dtype=torch.float64)
    """
    return torch.tensor([[sequence.num_scored] for sequence in sequences], dtype=torch.float64)


def mark_totals(sequences: Sequence[EventSequence], num_marks: int) -> Tensor:
    """Count the scored events of each sequence and mark, float64 (num_sequences, num_marks).

    Raises:
        ValueError: a mark is num_marks or more.

    Example:
        >>> mark_totals([EventSequence.of([1.0, 2.0, 3.0], marks=[0, 1, 1], t_start=0.0)], num_marks=3)
        tensor([[1., 2., 0.]], dtype=torch.float64)
    """
    for sequence in sequences:
        if len(sequence) and int(sequence.marks.max()) >= num_marks:
            raise ValueError(
                f"sequence {sequence.index}: has mark {int(sequence.marks.max())}; marks are 0..{num_marks - 1}"
            )
    totals = [torch.bincount(s.marks[s.num_given :], minlength=num_marks) for s in sequences]
    return torch.stack(totals).double() if totals else torch.zeros(0, num_marks, dtype=torch.float64)


def time_counts(sequences: Sequence[EventSequence], edges: Tensor) -> Tensor:
    """Count the scored events of each sequence in each bin (edges[b], edges[b + 1]].

    Returns:
        float64 (num_sequences, len(edges) - 1).

    Example:
        >>> time_counts([EventSequence.of([0.5, 1.0, 1.5], t_start=0.0)], torch.tensor([0.0, 1.0, 2.0]))
        tensor([[2., 1.]], dtype=torch.float64)
    """
    edges = edges.double()
    ends = [torch.searchsorted(s.event_times[s.num_given :], edges, right=True) for s in sequences]
    return torch.stack(ends).double().diff(dim=1) if ends else edges.new_zeros(0, len(edges) - 1)


def permutation_test(first: Tensor, second: Tensor, num_permutations: int = 999, seed: int = 0) -> PermutationResult:
    """Test whether the rows of `first` and of `second` come from one distribution.

        statistic = sum over columns of (1/n) sum_i (F_first(x_i) - F_second(x_i))^2   (Cramer-von Mises)
        p = (1 + #{permuted statistic >= observed}) / (1 + num_permutations)

    x are the pooled values. It sees differences in spread and shape, not only in mean, and each column counts alike
    whatever its scale. The p-value is valid at any sample size, if rows are independent and the two samples were drawn
    with different seeds.

    Args:
        first, second: (num_sequences,) or (num_sequences, num_columns): one statistic per sequence, such as
            `event_counts`.
    Source: Anderson, Ann. Math. Stat. 33 (1962); Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010) for the +1.

    Example:
        >>> first, second = torch.arange(30.0), torch.arange(30.0) + 20
        >>> permutation_test(first, first).p_value, permutation_test(first, second).p_value < 0.01
        (1.0, True)
    """
    samples = [(x if x.dim() == 2 else x.unsqueeze(1)).detach().double().cpu() for x in (first, second)]
    if not len(first) or not len(second) or samples[0].shape[1] != samples[1].shape[1]:
        raise ValueError(
            f"the samples have shapes {tuple(first.shape)} and {tuple(second.shape)}; both need rows "
            "and as many columns"
        )
    pooled = torch.cat(samples)
    if torch.isnan(pooled).any():
        raise ValueError("a statistic of a sequence is NaN; the samples must hold numbers")
    sorted_values, order = pooled.sort(0)
    ties = _tie_sizes(sorted_values)
    is_first = torch.arange(len(pooled)) < len(first)
    observed = float(_cramer_von_mises(is_first.unsqueeze(0), order, ties))

    generator = torch.Generator().manual_seed(seed)
    at_least = 0
    block = max(1, _CHUNK // len(pooled))
    for start in range(0, num_permutations, block):
        size = min(block, num_permutations - start)
        shuffles = torch.rand(size, len(pooled), dtype=torch.float64, generator=generator).argsort(1)
        permuted = _cramer_von_mises(is_first[shuffles], order, ties)
        at_least += int((permuted >= observed * (1 - 1e-12)).sum())  # equal up to rounding is equal
    return PermutationResult(observed, (1 + at_least) / (1 + num_permutations), num_permutations)


def _tie_sizes(sorted_values: Tensor) -> Tensor:
    """Return the length of each run of equal values at its last entry, elsewhere 0: (n, columns)."""
    n = len(sorted_values)
    is_last = torch.ones_like(sorted_values, dtype=torch.bool)
    is_last[:-1] = sorted_values[1:] != sorted_values[:-1]
    ends = torch.where(is_last, torch.arange(1, n + 1).unsqueeze(1), 0)
    before = torch.cat([torch.zeros_like(ends[:1]), ends.cummax(0).values[:-1]])
    return torch.where(is_last, ends - before, 0).double()


def _cramer_von_mises(is_first: Tensor, order: Tensor, ties: Tensor) -> Tensor:
    """Statistics (permutations,) of memberships (permutations, n), given the sort order and tie sizes (n, columns)."""
    n = is_first.shape[1]
    num_first = int(is_first[0].sum())
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    total = torch.zeros(len(is_first), dtype=torch.float64)
    for column in range(order.shape[1]):
        below = is_first[:, order[:, column]].cumsum(1, dtype=torch.float64)
        difference = below / num_first - (ranks - below) / (n - num_first)
        total += difference.square() @ ties[:, column] / n
    return total
