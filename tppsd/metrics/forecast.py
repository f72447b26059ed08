"""Errors of point forecasts and the score of the predictive distribution, over all batches and ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from tppsd.metrics.functional.capped import crps, mean_share_beyond
from tppsd.models.mixture import LogNormalMixture


class _MeanOverEvents(Metric):
    """Computes sum over events / number of events; what is summed is up to `update`."""

    full_state_update = False
    total: Tensor
    num_events: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_events", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        self.total = self.total + values.detach().double().sum()
        self.num_events = self.num_events + values.numel()

    def compute(self) -> Tensor:
        """Return the mean, float64 (); NaN without events."""
        return self.total / self.num_events


class InterTimeRMSE(_MeanOverEvents):
    """Computes sqrt(sum_i (forecast_i - tau_i)^2 / num_events), in the data's unit of time.

    `functional.rmse` says when it is absurd.
    """

    higher_is_better = False

    def update(self, forecasts: Tensor, inter_times: Tensor) -> None:
        """Add events: forecasts and true inter-times, both (num_events,)."""
        self._add((forecasts.double() - inter_times.double()).square())

    def compute(self) -> Tensor:
        """Return the error in the data's unit of time, float64 (); NaN without events."""
        return super().compute().sqrt()


class MarkAccuracy(_MeanOverEvents):
    """Computes sum_i 1{k_i = argmax_k P_i(k)} / num_events; see `functional.mark_accuracy`."""

    higher_is_better = True

    def update(self, mark_probs: Tensor, marks: Tensor) -> None:
        """Add events: probabilities or their logarithms (num_events, num_marks), and true marks (num_events,)."""
        self._add(mark_probs.argmax(-1) == marks)


class InterTimeCRPS(_MeanOverEvents):
    """Computes sum_i integral (G_i(x) - 1{x >= tau_i})^2 dx / num_events until a horizon, in the data's unit of time.

    See `functional.crps`.
    """

    higher_is_better = False

    def update(self, distribution: LogNormalMixture, inter_times: Tensor, horizon: float = math.inf) -> None:
        """Add events: their distributions, of batch shape (num_events,), and true inter-times (num_events,)."""
        self._add(crps(distribution, inter_times, horizon))


class UnusableMeans(_MeanOverEvents):
    """Computes the share of events whose distribution has more than half of its mean beyond the horizon.

    See `functional.mean_share_beyond`.
    """

    higher_is_better = False

    def update(self, distribution: LogNormalMixture, horizon: float) -> None:
        """Add events: their distributions, of batch shape (num_events,)."""
        self._add(mean_share_beyond(distribution, horizon) > 0.5)
