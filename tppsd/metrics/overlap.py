"""Agreement of a draft with its target over all batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverContexts(Metric):
    """sum of values / number of contexts, in float64: of a field of `functional.Overlap`, the expected step acceptance or KL."""

    full_state_update = False
    total: Tensor
    num_contexts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_contexts", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add contexts: (num_contexts,)."""
        self.total = self.total + values.detach().double().sum()
        self.num_contexts = self.num_contexts + values.numel()

    def compute(self) -> Tensor:
        """Mean, float64 (); NaN without contexts."""
        return self.total / self.num_contexts
