"""Tests of the independence of successive residuals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


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
