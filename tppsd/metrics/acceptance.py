"""Acceptance statistics over all batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from tppsd.metrics.functional.acceptance import acceptance_rate, events_per_round, step_acceptance


class AcceptanceStatistics(Metric):
    """Adds up accepted counts and gives the rates that follow from them.

    acceptance_rate = accepted / drafted, step_acceptance = accepted / tested, events_per_round = (accepted + rounds) /
    rounds. The only state is the sum of `accepted_counts`, (drafted, accepted); see
    `tppsd.metrics.functional.acceptance`.
    """

    full_state_update = False
    accepted_counts: Tensor

    def __init__(self, max_draft_length: int = 64) -> None:
        super().__init__()
        size = max_draft_length + 1
        self.add_state("accepted_counts", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, accepted_counts: Tensor) -> None:
        """Add the rounds of one call, int64 (drafted, accepted), of any size up to max_draft_length + 1."""
        rows, columns = accepted_counts.shape
        size = len(self.accepted_counts)
        if max(rows, columns) > size:
            raise ValueError(
                f"accepted_counts has shape {(rows, columns)}; max_draft_length = {size - 1} allows "
                f"at most {(size, size)}"
            )
        padded = F.pad(accepted_counts.to(self.accepted_counts), (0, size - columns, 0, size - rows))
        self.accepted_counts = self.accepted_counts + padded

    def compute(self) -> dict[str, float]:
        """Return acceptance_rate, step_acceptance and events_per_round; NaN without drafts or rounds."""
        return {
            "acceptance_rate": acceptance_rate(self.accepted_counts),
            "step_acceptance": step_acceptance(self.accepted_counts),
            "events_per_round": events_per_round(self.accepted_counts),
        }
