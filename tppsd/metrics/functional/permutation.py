"""Permutation test of two samples of sequences: whether they come from one distribution.

It permutes whole sequences, because events within one depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence

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
