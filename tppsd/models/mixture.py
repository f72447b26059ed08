"""The distribution of an inter-time: a mixture of log-normals, optionally left-truncated.

Source: intensity-free learning of TPPs (Shchur et al., ICLR 2020); TPP-SD (arXiv 2507.09252), eq. 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LOG_STD_RANGE = (-6.0, 2.0)  # of a component, in units of the training split's std of log tau
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_TINY = torch.finfo(torch.float64).tiny
_LOG_TAU_RANGE = (-700.0, 700.0)  # of samples: beyond, exp is 0 or inf, which no distribution and no encoder can take
_BISECTIONS = 80  # halves a bracket of width 2^16 to below the spacing of float64


def log_ndtri(log_p: Tensor) -> Tensor:
    """Return z with log Phi(z) = log_p, accurate in the left tail where exp(log_p) underflows."""
    deep = log_p < -10.0
    y = torch.where(deep, log_p, -10.0)
    z = -torch.sqrt(-2 * y - torch.log(-2 * y) - 2 * _LOG_SQRT_2PI)
    for _ in range(6):  # Newton on the concave log Phi: quadratic, and the start is within 2 % for y < -10
        log_cdf = torch.special.log_ndtr(z)
        z = z - (log_cdf - y) * torch.exp(log_cdf + 0.5 * z * z + _LOG_SQRT_2PI)
    return torch.where(deep, z, torch.special.ndtri(torch.where(deep, 0.5, log_p).exp()))


def pick_last(values: Tensor, index: Tensor) -> Tensor:
    """Select values (..., n) at int64 index (..., m) of their last dimension, all others broadcast."""
    missing = values.dim() - index.dim()  # leading dimensions of several distributions, or of several draws
    if missing < 0:
        values = values[(None,) * -missing]
    return torch.take_along_dim(values, index[(None,) * missing] if missing > 0 else index, -1)


@dataclass(frozen=True)
class LogNormalMixture:
    """Is the distribution of log tau = shift + scale * x with x ~ sum_m w_m Normal(mean_m, std_m), given tau > elapsed.

    Attributes:
        log_weights, means, log_stds: (*batch, num_components), weights normalised.
        shift, scale: mean and standard deviation of log tau on the training split.
        elapsed: None, or (*batch,) float64: the density is g(tau) 1{tau > elapsed} / S(elapsed); 0 truncates nothing.
    """

    log_weights: Tensor
    means: Tensor
    log_stds: Tensor
    shift: float = 0.0
    scale: float = 1.0
    elapsed: Tensor | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of distributions."""
        return self.means.shape[:-1]

    def __getitem__(self, index: Any) -> LogNormalMixture:
        """Select along the batch dimensions; `[..., :-1]` drops the last position."""
        index = index if isinstance(index, tuple) else (index,)
        whole = (*index, slice(None)) if any(i is Ellipsis for i in index) else index
        elapsed = None if self.elapsed is None else self.elapsed[index]
        return LogNormalMixture(
            self.log_weights[whole], self.means[whole], self.log_stds[whole], self.shift, self.scale, elapsed
        )

    def elapsed_or_zero(self) -> Tensor:
        """Return `elapsed`, or zeros where nothing is truncated, float64 (*batch,)."""
        return self.means.new_zeros(self.batch_shape, dtype=torch.float64) if self.elapsed is None else self.elapsed

    def double(self) -> LogNormalMixture:
        """Return the same distribution with float64 arithmetic on the same parameters."""
        if self.means.dtype == torch.float64:
            return self
        return replace(
            self, log_weights=self.log_weights.double(), means=self.means.double(), log_stds=self.log_stds.double()
        )

    def truncated(self, elapsed: Tensor) -> LogNormalMixture:
        """Return the distribution given tau > elapsed (float64 (*batch,), >= 0)."""
        return replace(self, elapsed=elapsed)

    # --- densities -----------------------------------------------------------------------------------------------

    def _standardised(self, inter_times: Tensor) -> Tensor:
        """Return (log tau - shift) / scale, (..., 1) in the parameters' dtype; -inf at tau = 0.

        It is computed in float64.
        """
        x = inter_times.double().log().sub_(self.shift).div_(self.scale)
        return x.to(self.means.dtype).unsqueeze(-1)

    def _base_log_survival(self, inter_times: Tensor) -> Tensor:
        positive = inter_times > 0
        x = self._standardised(torch.where(positive, inter_times, 1.0))
        z = (x - self.means) * torch.exp(-self.log_stds)
        log_survival = torch.logsumexp(self.log_weights + torch.special.log_ndtr(-z), -1)
        return torch.where(positive, log_survival, 0.0).clamp_max(0.0)

    def log_prob(self, inter_times: Tensor) -> Tensor:
        """Return log g(tau), (*batch,) for inter_times broadcastable to it; -inf at tau <= elapsed (or 0)."""
        log_tau = inter_times.double().clamp_min(_TINY).log()
        x = ((log_tau - self.shift) / self.scale).to(self.means.dtype).unsqueeze(-1)
        z = (x - self.means) * torch.exp(-self.log_stds)
        exponents = torch.addcmul(self.log_weights - self.log_stds, z, z, value=-0.5)
        log_jacobian = log_tau + (_LOG_SQRT_2PI + math.log(self.scale))
        log_density = torch.logsumexp(exponents, -1) - log_jacobian.to(self.means.dtype)
        if self.elapsed is None:
            return torch.where(inter_times > 0, log_density, -torch.inf)
        log_density = log_density - self._base_log_survival(self.elapsed)
        return torch.where(inter_times > self.elapsed, log_density, -torch.inf)

    def log_survival(self, inter_times: Tensor) -> Tensor:
        """Return log S(tau) = log P(T > tau), (*batch,); never computed as log(1 - cdf)."""
        log_survival = self._base_log_survival(inter_times)
        if self.elapsed is None:
            return log_survival
        return (log_survival - self._base_log_survival(self.elapsed)).clamp_max(0.0)

    def cdf(self, inter_times: Tensor) -> Tensor:
        """Return G(tau) in [0, 1], (*batch,); accurate in the left tail."""
        z = (self._standardised(inter_times) - self.means) * torch.exp(-self.log_stds)
        below = 0.5 * torch.erfc(-math.sqrt(0.5) * z)  # torch's ndtr is (1 + erf) / 2: no digits left below 1e-16
        cdf = (self.log_weights.exp() * below).sum(-1).clamp_max(1.0)
        if self.elapsed is None:
            return cdf
        return torch.where(self.elapsed > 0, -torch.expm1(self.log_survival(inter_times)), cdf)

    # --- quantiles and moments -----------------------------------------------------------------------------------

    def icdf(self, probabilities: Tensor) -> Tensor:
        """Return tau with G(tau) = p for p in (0, 1), float64 (*batch,), by bisection on log tau."""
        distribution = self.double()
        p = probabilities.double()
        log_sf = torch.log1p(-p)
        if distribution.elapsed is not None:
            log_sf = log_sf + distribution._base_log_survival(distribution.elapsed)
            p = torch.where(distribution.elapsed > 0, -torch.expm1(log_sf), p)
        # each component's own p-quantile brackets the mixture's
        z = torch.where(p < 0.5, torch.special.ndtri(p), -log_ndtri(log_sf)).unsqueeze(-1)
        quantiles = distribution.means + distribution.log_stds.exp() * z
        low, high = quantiles.amin(-1), quantiles.amax(-1)
        untruncated = replace(distribution, elapsed=None, shift=0.0, scale=1.0)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            tau = middle.exp()
            below = torch.where(p < 0.5, untruncated.cdf(tau) < p, untruncated._base_log_survival(tau) > log_sf)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        inter_times = torch.exp(self.shift + self.scale * high)
        return inter_times if distribution.elapsed is None else torch.maximum(inter_times, distribution.elapsed)

    @property
    def median(self) -> Tensor:
        """The median inter-time, float64 (*batch,)."""
        return self.icdf(torch.full(self.batch_shape, 0.5, dtype=torch.float64, device=self.means.device))

    @property
    def mean_log(self) -> Tensor:
        """The mean E[log tau] without truncation, float64 (*batch,)."""
        return self.shift + self.scale * (self.log_weights.double().exp() * self.means.double()).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean E[tau], given tau > elapsed, float64 (*batch,).

        Without truncation it is sum_m w_m exp(shift + scale mean_m + (scale std_m)^2 / 2).
        """
        distribution = self.double()
        std = distribution.log_stds.exp()
        log_means = (
            distribution.log_weights + self.shift + self.scale * distribution.means + 0.5 * (self.scale * std) ** 2
        )
        if distribution.elapsed is None:
            return torch.logsumexp(log_means, -1).exp()
        z = (distribution._standardised(distribution.elapsed) - distribution.means) / std
        log_kept = torch.special.log_ndtr(self.scale * std - z)  # E[tau; tau > c] of a log-normal
        return (torch.logsumexp(log_means + log_kept, -1) - distribution._base_log_survival(distribution.elapsed)).exp()

    # --- sampling ------------------------------------------------------------------------------------------------

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return inter-times from float64 uniforms (..., *batch, 2).

        Number 0 of the last dimension picks the component, number 1 is the component's survival at the inter-time.
        """
        log_tau, _ = self._sample_log(uniforms)
        return self._inter_times(log_tau, self.elapsed)

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        """Return how far the given inter-times are from `sample(uniforms)`, float64 (*batch,).

        The unit is the standard deviation of log tau in the component that the uniforms pick. The distance is 0 if and
        only if `sample(uniforms)` gives the same inter-time.
        """
        log_tau, log_std = self._sample_log(uniforms)
        distance = (inter_times.log() - log_tau).abs() / log_std
        return torch.where(inter_times == self._inter_times(log_tau, self.elapsed), 0.0, distance)

    def _sample_log(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return log tau, unclamped, and the standard deviation of log tau in the picked component."""
        distribution = self.double()
        log_weights, log_kept = distribution.log_weights, distribution._log_kept()
        if log_kept is not None:
            log_weights = torch.log_softmax(log_weights + log_kept, -1)
        cumulative = log_weights.exp().cumsum(-1)
        threshold = uniforms[..., :1] * cumulative[..., -1:]
        component = (cumulative[..., :-1] < threshold).sum(-1, keepdim=True)
        if log_kept is not None:
            log_kept = pick_last(log_kept, component)
        means, log_stds = (pick_last(values, component) for values in (distribution.means, distribution.log_stds))
        log_tau = distribution._log_at_level(uniforms[..., 1:2], means, log_stds, log_kept)
        return log_tau.squeeze(-1), log_stds.squeeze(-1).exp() * self.scale

    def knots(self, levels: Tensor) -> Tensor:
        """Return inter-times that lie dense wherever the distribution is narrow, (n * num_components, *batch).

        At each, the survival of one component, given tau > elapsed, is one of `levels` float64 (n,).
        """
        distribution = self.double()
        level = levels.to(distribution.means.device).view(-1, *[1] * distribution.means.dim())
        log_tau = distribution._log_at_level(level, distribution.means, distribution.log_stds, distribution._log_kept())
        elapsed = None if distribution.elapsed is None else distribution.elapsed.unsqueeze(-1)
        return self._inter_times(log_tau, elapsed).movedim(-1, 1).flatten(0, 1)

    def _log_kept(self) -> Tensor | None:
        """Return the log of each component's mass beyond `elapsed`."""
        if self.elapsed is None:
            return None
        kept: Tensor = torch.special.log_ndtr(
            (self.means - self._standardised(self.elapsed)) * torch.exp(-self.log_stds)
        )
        return kept

    def _log_at_level(self, level: Tensor, means: Tensor, log_stds: Tensor, log_kept: Tensor | None) -> Tensor:
        """Return log tau (..., n) where components (..., n) have survival `level`, given tau > elapsed."""
        z = -torch.special.ndtri(level)
        if self.elapsed is not None and log_kept is not None:
            z = torch.where(self.elapsed.unsqueeze(-1) > 0, -log_ndtri(level.log() + log_kept), z)
        return torch.addcmul(means, log_stds.exp(), z) * self.scale + self.shift

    @staticmethod
    def _inter_times(log_tau: Tensor, elapsed: Tensor | None) -> Tensor:
        """Return tau, within what float64 can hold, and beyond `elapsed`."""
        inter_times = torch.exp(log_tau.clamp(*_LOG_TAU_RANGE))
        return inter_times if elapsed is None else torch.maximum(inter_times, torch.nextafter(elapsed, 2 * elapsed + 1))
