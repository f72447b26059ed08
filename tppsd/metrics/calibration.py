"""Tests of residuals and calibration of predictive distributions, over all batches and ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tppsd.metrics.functional.calibration import (
    PITCalibration,
    confidence_bins,
    expected_calibration_error,
    pit_calibration,
)
from tppsd.metrics.functional.time_rescaling import (
    KSResult,
    SequenceResiduals,
    carry_over,
    ks_exponential,
)


class TimeRescalingKS(Metric):
    """Tests D = sup_x |F_n(x) - (1 - exp(-x))| of the carried-over gaps z_i = Lambda(t_i) - Lambda(t_{i-1}).

    Sequences are concatenated in the order of their index, whatever batch, rank or order they arrive in; one that comes
    twice (padding of a distributed sampler) counts once. See `functional.carry_over` and `functional.ks_exponential`.
    Source: Brown et al., Neural Computation 14 (2002).
    """

    full_state_update = False
    index: list[Tensor]
    lengths: list[Tensor]
    leftovers: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # Every state is float64 (integers are exact up to 2^53): a rank without data sends empty tensors of
        # `self.dtype`, and all ranks must gather one type.
        self.set_dtype(torch.float64)
        for name in ("index", "lengths", "leftovers", "values"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, residuals: Iterable[SequenceResiduals]) -> None:
        """Add sequences, in any order."""
        rows = list(residuals)
        if not rows:
            return
        self.index.append(self._state([row.index for row in rows]))
        self.lengths.append(self._state([len(row.gaps) for row in rows]))
        self.leftovers.append(self._state([row.leftover for row in rows]))
        self.values.append(torch.cat([row.gaps for row in rows]).to(self.device, torch.float64))

    def _state(self, values: list[int] | list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def gaps(self) -> Tensor:
        """Return carried-over gaps of this rank's sequences, float64 (num_events,)."""
        if not len(self.index):
            return torch.empty(0, dtype=torch.float64)
        index, lengths, leftovers = (
            dim_zero_cat(state).tolist() for state in (self.index, self.lengths, self.leftovers)
        )
        values = dim_zero_cat(self.values).cpu().split([int(length) for length in lengths])
        rows = {int(i): SequenceResiduals(int(i), v, left) for i, v, left in zip(index, values, leftovers, strict=True)}
        return carry_over(rows.values())

    def compute(self) -> KSResult:
        """Return statistic, p-value and number of gaps over all ranks."""
        return ks_exponential(self.gaps())


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
        return pit_calibration(-torch.expm1(-self.gaps().clamp_min(0)), self.num_bins)


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
