"""Kolmogorov-Smirnov tests of residuals over all batches and ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tppsd.metrics.functional.time_rescaling import KSResult, SequenceResiduals, carry_over, ks_exponential, ks_uniform


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
