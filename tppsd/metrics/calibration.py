"""Calibration of predictive distributions over all batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from tppsd.metrics.functional.calibration import (
    PITCalibration,
    confidence_bins,
    expected_calibration_error,
    pit_calibration,
)
from tppsd.metrics.residuals import TimeRescalingKS


class InterTimeCalibration(TimeRescalingKS):
    """Compares n_b, 1/B sum_b |n_b / n - 1/B| and sup |F_n(u) - u| of u_i = 1 - exp(-z_i), the PITs of inter-times.

    The z_i are carried over the ends of windows, which otherwise hide long inter-times, in the order of index; see
    `functional.pit_calibration`. It takes what `functional.distribution_residuals` gives.
    """

    def __init__(self, num_bins: int = 10) -> None:
        super().__init__()
        self.num_bins = num_bins

    def compute(self) -> PITCalibration:  # type: ignore[override]
        """Return histogram, its deviation, D and number of events over all ranks."""
        return pit_calibration(self.uniforms(), self.num_bins)


class MarkCalibrationError(Metric):
    """Computes ECE = sum_b n_b / n |accuracy_b - mean confidence_b| over B bins of the predicted mark's probability.

    The only state are the sums of `functional.confidence_bins`, (3, num_bins). Source: Guo et al. (ICML 2017).
    """

    full_state_update = False
    higher_is_better = False
    bins: Tensor

    def __init__(self, num_bins: int = 15) -> None:
        super().__init__()
        self.add_state("bins", torch.zeros(3, num_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mark_probs: Tensor, marks: Tensor) -> None:
        """Add events: probabilities (num_events, num_marks) and true marks (num_events,)."""
        self.bins = self.bins + confidence_bins(mark_probs, marks, self.bins.shape[1])

    def compute(self) -> Tensor:
        """Return the error in [0, 1], float64 (); NaN without events."""
        return expected_calibration_error(self.bins)
