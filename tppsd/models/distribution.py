"""The distribution of the next event: an inter-time from a mixture of log-normals, then a mark.

The mark may depend on that inter-time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from tppsd.models.mixture import LogNormalMixture, pick_last
from tppsd.models.protocol import DraftDistribution


class MarkDecoder(Protocol):
    """Provides what a NextEventDistribution needs of a mark decoder (tppsd.models.decoder)."""

    def log_probs(self, features: Tensor, log_inter_times: Tensor) -> Tensor:
        """Return log f(k | h, tau), (..., num_marks): features (..., width), standardised log tau (..., 1)."""

    def in_double(self) -> MarkDecoder:
        """Return the same map in float64 arithmetic."""


@dataclass(frozen=True)
class NextEventDistribution:
    """Is g(tau | h) f(k | h, tau) for every position of a batch (tppsd.models.protocol.EventDistribution).

    Attributes:
        inter_time: distribution of tau, batch shape (*batch,).
        mark_features: (*batch, width): what the mark decoder has computed from the context alone; None if unmarked.
        mark_decoder: maps (features, standardised log tau) to log f(. | h, tau); None if unmarked.
    """

    inter_time: LogNormalMixture
    mark_features: Tensor | None = None
    mark_decoder: MarkDecoder | None = None
    _packed: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of distributions."""
        return self.inter_time.batch_shape

    @property
    def elapsed(self) -> Tensor | None:
        """Time since the last event that is known to be without an event, float64 (*batch,); None = not truncated."""
        return self.inter_time.elapsed

    @property
    def parameters(self) -> Tensor:
        """All parameters side by side, (*batch, width)."""
        return self.packed()._fields()[0]

    def packed(self) -> NextEventDistribution:
        """Return the same distributions, their parameters side by side in one tensor.

        Selecting and joining then take one operator, not four.
        """
        return self if self._packed is not None else self._with([torch.cat(self._fields(), -1)], self.elapsed)

    def _fields(self) -> list[Tensor]:
        """Return the parameters, each (*batch, width)."""
        if self._packed is not None:
            return [self._packed]
        fields = [self.inter_time.log_weights, self.inter_time.means, self.inter_time.log_stds]
        return fields if self.mark_features is None else [*fields, self.mark_features]

    def _with(self, fields: list[Tensor], elapsed: Tensor | None) -> NextEventDistribution:
        """Return distributions of the same model with these parameters and this elapsed time."""
        together = fields[0] if len(fields) == 1 else None
        if together is not None:
            num = self.inter_time.means.shape[-1]
            fields = list(
                together.split([num] * 3 + ([] if self.mark_features is None else [together.shape[-1] - 3 * num]), -1)
            )
        log_weights, means, log_stds, *features = fields
        mixture = LogNormalMixture(log_weights, means, log_stds, self.inter_time.shift, self.inter_time.scale, elapsed)
        distribution = NextEventDistribution(mixture, features[0] if features else None, self.mark_decoder)
        object.__setattr__(distribution, "_packed", together)
        return distribution

    def of(self, parameters: Tensor) -> NextEventDistribution:
        """Return distributions of the same model with other parameters, packed (*batch, width)."""
        return self._with([parameters], None)

    def with_parts(self, **parts: Any) -> NextEventDistribution:
        """Return the same distribution with some of its attributes replaced."""
        return replace(self, **parts)

    def __getitem__(self, index: Any) -> NextEventDistribution:
        """Select along the batch dimensions; `distribution[..., :-1]` drops the last position.

        Two index tensors count from the front.
        """
        key = index if isinstance(index, tuple) else (index,)
        if len(key) == 2 and isinstance(key[0], Tensor) and isinstance(key[1], Tensor):
            return self._take(key[0] * self.batch_shape[1] + key[1])
        elapsed = self.elapsed
        whole = (*key, slice(None)) if any(i is Ellipsis for i in key) else key
        return self._with([values[whole] for values in self._fields()], None if elapsed is None else elapsed[key])

    def at(self, positions: Tensor) -> NextEventDistribution:
        """Select `positions` of the last batch dimension in each row.

        Positions int64 (batch,) give distributions (batch,), positions (batch, n) give (batch, n).
        """
        num_rows, length = self.batch_shape
        if num_rows == 1:
            return self._take(positions)
        rows = torch.arange(0, num_rows * length, length, device=positions.device)
        return self._take(rows.view(-1, *[1] * (positions.dim() - 1)) + positions)

    def _take(self, places: Tensor) -> NextEventDistribution:
        """Select at int64 `places` (any shape) of the first two batch dimensions, counted as one."""
        flat, elapsed = places.flatten(), self.elapsed

        def take(values: Tensor) -> Tensor:
            # with many rows that takes a third of the time of two indices, with one row as long
            return values.flatten(0, 1).index_select(0, flat).view(*places.shape, *values.shape[2:])

        return self._with([take(values) for values in self._fields()], None if elapsed is None else take(elapsed))

    def unsqueeze(self, dim: int) -> NextEventDistribution:
        """Insert a batch dimension at `dim` >= 0, for several draws from each distribution."""
        elapsed = self.elapsed
        fields = [values.unsqueeze(dim) for values in self._fields()]
        return self._with(fields, None if elapsed is None else elapsed.unsqueeze(dim))

    def expand(self, batch_shape: torch.Size | tuple[int, ...]) -> NextEventDistribution:
        """Broadcast to `batch_shape`; nothing is copied."""
        elapsed = self.elapsed
        fields = [values.expand(*batch_shape, values.shape[-1]) for values in self._fields()]
        return self._with(fields, None if elapsed is None else elapsed.expand(batch_shape))

    @staticmethod
    def cat(distributions: Sequence[NextEventDistribution], dim: int) -> NextEventDistribution:
        """Join distributions of one model along a batch dimension (>= 0)."""
        elapsed = None
        if any(
            distribution.elapsed is not None for distribution in distributions
        ):  # truncated and whole distributions mix
            elapsed = torch.cat([distribution.inter_time.elapsed_or_zero() for distribution in distributions], dim)
        if any(distribution._packed is not None for distribution in distributions):
            distributions = [distribution.packed() for distribution in distributions]
        fields = zip(*(distribution._fields() for distribution in distributions), strict=True)
        return distributions[0]._with([torch.cat(values, dim) for values in fields], elapsed).packed()

    def double(self) -> NextEventDistribution:
        """Return the same distribution in float64 arithmetic.

        A density then does not depend on the shape in which it is computed.
        """
        if self.mark_features is None or self.mark_decoder is None:
            return self.with_parts(inter_time=self.inter_time.double())
        return NextEventDistribution(
            self.inter_time.double(), self.mark_features.double(), self.mark_decoder.in_double()
        )

    def truncated(self, elapsed: Tensor) -> NextEventDistribution:
        """Return the distribution given that nothing happened for `elapsed` float64 (*batch,) since the last event."""
        return self.with_parts(inter_time=self.inter_time.truncated(elapsed))

    def whole(self) -> NextEventDistribution:
        """Return the distribution without truncation."""
        return self if self.elapsed is None else self.with_parts(inter_time=replace(self.inter_time, elapsed=None))

    def mark_log_probs(self, inter_times: Tensor) -> Tensor:
        """Return log f(k | h, tau), (*batch, num_marks); zeros of width 1 when unmarked."""
        if self.mark_features is None or self.mark_decoder is None:
            whole, _ = torch.broadcast_tensors(inter_times, self.inter_time.means[..., 0])
            return torch.zeros_like(whole, dtype=self.inter_time.means.dtype).unsqueeze(-1)
        log_tau = self.inter_time._standardised(inter_times.clamp_min(torch.finfo(torch.float64).tiny))
        return self.mark_decoder.log_probs(self.mark_features, log_tau)

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return log g(tau) + log f(k | tau), (*batch,)."""
        log_time = self.inter_time.log_prob(inter_times)
        if self.mark_features is None:
            return log_time
        return log_time + pick_mark(self.mark_log_probs(inter_times), marks)

    def log_survival(self, inter_times: Tensor) -> Tensor:
        """Return log P(no event for `inter_times`), (*batch,)."""
        return self.inter_time.log_survival(inter_times)

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        """Return how far these inter-times are from those of `sample(uniforms)` (LogNormalMixture.noise_distance)."""
        return self.inter_time.noise_distance(inter_times, uniforms)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inter_times float64, marks int64) from float64 uniforms (..., *batch, 3)."""
        inter_times = self.inter_time.sample(uniforms[..., :2])
        if self.mark_features is None:
            return inter_times, torch.zeros_like(inter_times, dtype=torch.int64)
        return inter_times, sample_mark(self.mark_log_probs(inter_times), uniforms[..., 2])


def sample_with_ratio(
    target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw from the target and return (inter_times, marks, Delta), with Delta as of `log_density_ratio`."""
    inter_times, marks = target.sample(uniforms)
    return inter_times, marks, log_density_ratio(target, draft, inter_times, marks)


def log_density_ratio(
    target: DraftDistribution, draft: DraftDistribution, inter_times: Tensor, marks: Tensor
) -> Tensor:
    """Return Delta = log g_T f_T - log g_D f_D, (*batch,)."""
    return target.log_prob(inter_times, marks) - draft.log_prob(inter_times, marks)


def pick_mark(mark_log_probs: Tensor, marks: Tensor) -> Tensor:
    """Return log f(k) of the given marks: (..., num_marks), (...) -> (...)."""
    return pick_last(mark_log_probs, marks.unsqueeze(-1)).squeeze(-1)


def sample_mark(mark_log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw marks by inversion of the cumulative probabilities: (..., num_marks), (...) -> int64 (...)."""
    cumulative = mark_log_probs.double().exp().cumsum(-1)
    return (cumulative[..., :-1] < uniforms.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)
