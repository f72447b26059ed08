"""Optimal transport distance of event sequences over all batches and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional.transport import HYPRO_COSTS, transport_distance


class OptimalTransportDistance(Metric):
    """Averages sum_marks min_alignments [c * #{not aligned} + sum |t - t'|] over pairs of sequences and costs c.

    In the data's unit of time, like the costs; see `functional.transport_distance`. Source: Mei, Qin and Eisner (ICML
    2019).

    Args:
        costs: c, of a deletion or insertion.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    num_pairs: Tensor

    def __init__(self, costs: Sequence[float] = HYPRO_COSTS) -> None:
        super().__init__()
        self.costs = tuple(costs)
        self.add_state("total", torch.zeros(len(self.costs), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_pairs", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, first: Iterable[EventSequence], second: Iterable[EventSequence]) -> None:
        """Add pairs, such as continuations and what really followed, both without their history."""
        for one, other in zip(first, second, strict=True):
            self.total = self.total + transport_distance(one, other, self.costs).to(self.total)
            self.num_pairs = self.num_pairs + 1

    def compute(self) -> Tensor:
        """Return the mean distance, float64 (); NaN without pairs."""
        return self.total.mean() / self.num_pairs
