"""Continuous ranked probability score of the next inter-time: one number for sharpness and calibration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tppsd.metrics.functional.capped import capped_mean, capped_minimum, components
from tppsd.models.mixture import LogNormalMixture

_CHUNK = 2**17  # pairs of components of a block of events
_NEGLIGIBLE = 1e-6  # of E min(X, H), what is beyond the horizon in E min(X, X')
_LARGE = 300.0  # log of a component's mean from which it may overflow in the formula, although the score does not


def crps(distribution: LogNormalMixture, inter_times: Tensor, horizon: float = math.inf) -> Tensor:
    """Return the CRPS of every inter-time under its distribution, float64 (num_events,), in the data's unit of time.

        CRPS = integral (G(x) - 1{x >= tau})^2 dx = E min(X, X') + 2 E (tau - X)_+ - tau,   X, X' ~ G independent
        E min(X, X') = 2 sum_ml w_m w_l exp(a_m + s_m^2 / 2) Phi((a_l - a_m - s_m^2) / sqrt(s_m^2 + s_l^2))
        E (tau - X)_+ = sum_m w_m [tau Phi(z_m) - exp(a_m + s_m^2 / 2) Phi(z_m - s_m)],  z_m = (log tau - a_m) / s_m

    with a_m, s_m mean and standard deviation of log X in component m. Unlike the usual E|X - tau| - E|X - X'| / 2 it
    needs no mean, which a heavy tail makes huge: errors stay near 1e-14 of max(tau, E min). A component so wide that E
    min(X, X') is huge does make the score huge, unless there is a horizon H: then it is the score of min(X, H) at
    min(tau, H),

        integral_0^H (G(x) - 1{x >= tau})^2 dx = E min(X, X', H) + 2 E (min(tau, H) - X)_+ - min(tau, H)

    a proper score that says nothing about what is beyond H. E min(X, X', H) is in closed form where E min(X, X') tells
    no difference, else by quadrature, within 1e-4 of E min(X, H). Lower is better. Time grows with num_components^2;
    blocks of events bound the memory.

    Args:
        distribution: of batch shape (num_events,), not truncated.
        inter_times: (num_events,), >= 0.
        horizon: H > 0, in the data's unit of time.
    Source: Gneiting and Raftery, JASA 102 (2007), section 4.2, with |x - y| = x + y - 2 min(x, y); with a horizon:
    Gneiting and Ranjan, J. Bus. Econ. Stat. 29 (2011), threshold weights 1{x < H}.

    Example:
        >>> zero = torch.zeros(2, 1, dtype=torch.float64)
        >>> standard = LogNormalMixture(zero, zero, zero)  # log X ~ Normal(0, 1)
        >>> crps(standard, torch.tensor([1.0, 5.0]))
        tensor([0.2674, 2.8495], dtype=torch.float64)
    """
    inter_times = inter_times.double().clamp_max(horizon)
    minimum = _minimum(distribution) if horizon == math.inf else _minimum_within(distribution, horizon)
    shortfall = _expected_shortfall(*components(distribution), inter_times)
    return (minimum + 2 * shortfall - inter_times).clamp_min(0.0)


def _minimum(distribution: LogNormalMixture) -> Tensor:
    """Return E min(X, X'), (num_events,), in blocks of events."""
    parts = components(distribution)
    size = max(1, _CHUNK // distribution.means.shape[-1] ** 2)
    blocks = [slice(start, start + size) for start in range(0, len(distribution.means), size)]
    return torch.cat([parts[0][:0, 0], *(_expected_minimum(*(part[b] for part in parts)) for b in blocks)])


def _minimum_within(distribution: LogNormalMixture, horizon: float) -> Tensor:
    """Return E min(X, X', H), (num_events,), each in the way that it needs."""
    log_weights, a, s = components(distribution)
    z = (math.log(horizon) - a) / s
    log_survival = torch.logsumexp(log_weights + torch.special.log_ndtr(-z), -1)
    log_beyond = torch.logsumexp(log_weights + a + 0.5 * s * s + torch.special.log_ndtr(s - z), -1)  # E[X; X > H]
    # what is cut off, integral of S^2 beyond H, is at most S(H) E[X; X > H]
    is_heavy = log_survival + log_beyond > (_NEGLIGIBLE * capped_mean(distribution, horizon)).log()
    minimum = a.new_empty(a.shape[:-1])
    minimum[~is_heavy] = _minimum(distribution[~is_heavy])
    minimum[is_heavy] = capped_minimum(distribution[is_heavy], horizon)
    return minimum


def _expected_minimum(log_weights: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Return E min(X, X'), (num_events,)."""
    variances = s * s
    per_spread = torch.rsqrt(
        variances.unsqueeze(-1) + variances.unsqueeze(-2)
    )  # (num_events, num_components, num_components)
    z = (a.unsqueeze(-2) - (a + variances).unsqueeze(-1)) * per_spread
    log_means = log_weights + a + 0.5 * variances
    if (
        not log_means.numel() or log_means.max() < _LARGE
    ):  # the fast way: where erfc underflows, the product does not matter
        smaller = 0.5 * torch.erfc(z * -math.sqrt(0.5))
        return 2 * (log_means.exp() * (smaller @ log_weights.exp().unsqueeze(-1)).squeeze(-1)).sum(-1)
    log_terms = log_means.unsqueeze(-1) + log_weights.unsqueeze(-2) + torch.special.log_ndtr(z)
    minimum: Tensor = 2 * log_terms.exp().sum((-2, -1))
    return minimum


def _expected_shortfall(log_weights: Tensor, a: Tensor, s: Tensor, inter_times: Tensor) -> Tensor:
    """Return E (tau - X)_+, (num_events,)."""
    tau = inter_times.unsqueeze(-1)
    z = (tau.log() - a) / s
    below = (log_weights + a + 0.5 * s * s + torch.special.log_ndtr(z - s)).exp()
    shortfall: Tensor = (log_weights.exp() * torch.special.ndtr(z) * tau - below).sum(-1)
    return shortfall
