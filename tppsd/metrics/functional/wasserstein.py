"""Distances between two samples of the next event: the columns of the TPP-SD paper."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Ground = Literal["index", "discrete"]


def wasserstein_distance(first: Tensor, second: Tensor) -> float:
    """Return the 1-Wasserstein distance of two empirical distributions, in the unit of the values; D^t of the paper.

        W_1 = integral |F_first(x) - F_second(x)| dx

    Times and inter-times that follow one history give the same distance. Two samples of n draws from the same
    distribution are of the order of its spread / sqrt(n) apart, not 0: compare with the distance of two samples of one
    sampler.

    Args:
        first, second: (num_draws,), of any two lengths >= 1.
    Source: TPP-SD (arXiv 2507.09252), section 5.1.

    Example:
        >>> wasserstein_distance(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.5]))
        1.0
    """
    first, second = (_checked(values, "values").double() for values in (first, second))
    values, order = torch.cat([first, second]).sort()
    return float(_distance_of_cdfs(order < len(first), order >= len(first))[:-1] @ values.diff())


def earth_movers_distance(first: Tensor, second: Tensor, ground: Ground = "index") -> float:
    """Earth mover's distance of two empirical distributions of marks, without unit; D^k of the paper.

        EMD = min over couplings of E c(k, l)
        ground = "index":     c = |k - l|    EMD = sum_k |F_first(k) - F_second(k)|
        ground = "discrete":  c = 1{k != l}  EMD = 1/2 sum_k |f_first(k) - f_second(k)|, the total variation

    The paper's cost is "index", which takes the marks' numbers for places on a line; marks are names as a rule, and
    then "discrete" is the distance that does not depend on their order. As for times, two samples of one distribution
    are not at 0.

    Args:
        first, second: integers >= 0, (num_draws,), of any two lengths >= 1.
        ground: "index" or "discrete".
    Source: TPP-SD (arXiv 2507.09252), section 5.1.

    Example:
        >>> first, second = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2])
        >>> [round(earth_movers_distance(first, second, ground), 3) for ground in ('index', 'discrete')]
        [1.0, 0.667]
    """
    if ground not in ("index", "discrete"):
        raise ValueError(f"ground = {ground!r} is unknown; choose 'index' (|k - l|) or 'discrete' (0 or 1)")
    first, second = (_checked(marks, "marks") for marks in (first, second))
    size = 1 + int(torch.maximum(first.max(), second.max()))
    counts = [torch.bincount(marks, minlength=size) for marks in (first, second)]
    if ground == "index":
        return float(_distance_of_cdfs(*counts).sum())
    return float(
        (counts[0] * len(second) - counts[1] * len(first)).abs().sum().double() / (2 * len(first) * len(second))
    )


def _distance_of_cdfs(first: Tensor, second: Tensor) -> Tensor:
    """Return |F_first - F_second| at every point, from the numbers of draws at each.

    These are whole numbers up to the division, so that it is exact.
    """
    below_first, below_second = first.long().cumsum(0), second.long().cumsum(0)
    num_first, num_second = below_first[-1], below_second[-1]
    return (below_first * num_second - below_second * num_first).abs().double() / (num_first * num_second)


def _checked(values: Tensor, name: str) -> Tensor:
    values = values.detach().flatten().cpu()
    if not len(values):
        raise ValueError(f"a sample has no {name}; both samples need at least one draw")
    if not values.double().isfinite().all():
        raise ValueError(f"a sample has {name} that are infinite or NaN; a distance needs finite ones")
    return values
