"""Tests of residuals and calibration of predictive distributions, over all batches and ranks."""

from __future__ import annotations

from abc import abstractmethod
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
    IndependenceResult,
    KSResult,
    SequenceResiduals,
    carry_over,
    ks_exponential,
    ks_uniform,
    lag1_independence,
)


class _ResidualMetric(Metric):
    """Keeps residuals per index; a sequence that comes twice (padding of a distributed sampler) counts once."""

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

    @staticmethod
    @abstractmethod
    def _values(residuals: SequenceResiduals) -> Tensor:
        """Return what is stored of a sequence, (num_values,)."""

    def update(self, residuals: Iterable[SequenceResiduals]) -> None:
        """Add sequences, in any order."""
        rows = list(residuals)
        if not rows:
            return
        values = [self._values(row) for row in rows]
        self.index.append(self._state([row.index for row in rows]))
        self.lengths.append(self._state([len(value) for value in values]))
        self.leftovers.append(self._state([row.leftover for row in rows]))
        self.values.append(torch.cat(values).to(self.device, torch.float64))

    def _state(self, values: list[int] | list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _sequences(self) -> list[SequenceResiduals]:
        """Return each index once, in the order of index; `gaps` holds the values of `_values`."""
        if not len(self.index):
            return []
        index, lengths, leftovers = (
            dim_zero_cat(state).tolist() for state in (self.index, self.lengths, self.leftovers)
        )
        values = dim_zero_cat(self.values).cpu().split([int(length) for length in lengths])
        rows = {int(i): SequenceResiduals(int(i), v, left) for i, v, left in zip(index, values, leftovers, strict=True)}
        return [rows[i] for i in sorted(rows)]


class TimeRescalingKS(_ResidualMetric):
    """Tests D = sup_x |F_n(x) - (1 - exp(-x))| of the carried-over gaps z_i = Lambda(t_i) - Lambda(t_{i-1}).

    Sequences are concatenated in the order of their index, whatever batch, rank or order they arrive in; see
    `functional.carry_over` and `functional.ks_exponential`. Source: Brown et al., Neural Computation 14 (2002).
    """

    @staticmethod
    def _values(residuals: SequenceResiduals) -> Tensor:
        return residuals.gaps

    def gaps(self) -> Tensor:
        """Return carried-over gaps of this rank's sequences, float64 (num_events,)."""
        return carry_over(self._sequences())

    def uniforms(self) -> Tensor:
        """Return 1 - exp(-gap) of `gaps`, float64 (num_events,)."""
        return -torch.expm1(-self.gaps().clamp_min(0))

    def compute(self) -> KSResult:
        """Return statistic, p-value and number of gaps over all ranks."""
        return ks_exponential(self.gaps())


class MarkPIT(_ResidualMetric):
    """Tests D = sup_x |F_n(x) - x| of the randomised mark PITs u_i = F(k_i - 1) + v_i f(k_i).

    See `functional.model_residuals` and `functional.ks_uniform`. Source: Brockwell, Stat. Probab. Lett. 77 (2007).
    """

    @staticmethod
    def _values(residuals: SequenceResiduals) -> Tensor:
        return residuals.mark_uniforms

    def uniforms(self) -> Tensor:
        """Return PITs of this rank's sequences, float64 (num_events,)."""
        return torch.cat([torch.empty(0, dtype=torch.float64), *(row.gaps for row in self._sequences())])

    def compute(self) -> KSResult:
        """Return statistic, p-value and number of marks over all ranks; NaN and 0 for unmarked events."""
        return ks_uniform(self.uniforms())


class GapIndependence(TimeRescalingKS):
    """Tests X2 = sum_ab (n_ab - n_a. n_.b / n)^2 / (n_a. n_.b / n) of successive 1 - exp(-z_i).

    The z_i are the carried-over gaps.

    Pairs follow the order of index, whatever batch, rank or order sequences arrive in; see
    `functional.lag1_independence`.
    Source: Anderson and Goodman, Ann. Math. Stat. 28 (1957).
    """

    def __init__(self, num_bins: int = 8) -> None:
        super().__init__()
        self.num_bins = num_bins

    def compute(self) -> IndependenceResult:  # type: ignore[override]
        """Return statistic, p-value, degrees of freedom and number of pairs over all ranks.

        Raises:
            ValueError: there are too few pairs.
        """
        return lag1_independence(self.uniforms(), self.num_bins)


class MarkIndependence(MarkPIT):
    """Tests X2 of successive randomised mark PITs, in the order of index; as `GapIndependence`."""

    def __init__(self, num_bins: int = 8) -> None:
        super().__init__()
        self.num_bins = num_bins

    def compute(self) -> IndependenceResult:  # type: ignore[override]
        """Return statistic, p-value, degrees of freedom and number of pairs over all ranks.

        Raises:
            ValueError: there are too few pairs.
        """
        return lag1_independence(self.uniforms(), self.num_bins)


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
