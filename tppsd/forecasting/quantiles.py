"""Quantiles over sampled paths, with intervals that assume no distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Quantiles(NamedTuple):
    """Holds quantiles over paths, with distribution-free 95 % intervals, each float64 (num_histories, ..., num_levels).

    Fields: levels (num_levels,); values; lower, upper: order statistics between which the true quantile lies.
    """

    levels: Tensor
    values: Tensor
    lower: Tensor
    upper: Tensor


def quantiles_of(outcomes: Tensor, levels: Sequence[float]) -> Quantiles:
    """Return quantiles of outcomes (num_paths, *batch): values (*batch, num_levels)."""
    level = torch.as_tensor(levels, dtype=torch.float64).flatten()
    if not bool(((level > 0) & (level < 1)).all()) or len(level) == 0:
        raise ValueError(f"quantiles = {levels} must lie between 0 and 1")
    num, ordered = len(outcomes), outcomes.sort(0).values
    width = 1.959964 * (num * level * (1 - level)).sqrt()  # of the binomial number of paths below a quantile
    ranks = ((num * level).ceil() - 1, (num * level - width).floor() - 1, (num * level + width).ceil())
    values = (ordered[rank.long().clamp(0, num - 1)].movedim(0, -1) for rank in ranks)
    return Quantiles(level, *values)
