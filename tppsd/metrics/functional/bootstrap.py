"""Bootstrap over whole sequences: how sure a score of a test split is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


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
