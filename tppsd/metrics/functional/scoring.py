"""Continuous ranked probability score of the next inter-time: one number for sharpness and calibration of a law."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tppsd.metrics.functional.forecast import untruncated
from tppsd.models.mixture import LogNormalMixture

_CHUNK = 2**17  # pairs of components of a block of events
_LARGE = 300.0  # log of a component's mean from which it may overflow in the formula, although the score does not


def crps(law: LogNormalMixture, inter_times: Tensor) -> Tensor:
    """CRPS of every inter-time under its law, in closed form, float64 (num_events,), in the data's unit of time.

        CRPS = integral (G(x) - 1{x >= tau})^2 dx = E min(X, X') + 2 E (tau - X)_+ - tau,   X, X' ~ G independent
        E min(X, X') = 2 sum_ml w_m w_l exp(a_m + s_m^2 / 2) Phi((a_l - a_m - s_m^2) / sqrt(s_m^2 + s_l^2))
        E (tau - X)_+ = sum_m w_m [tau Phi(z_m) - exp(a_m + s_m^2 / 2) Phi(z_m - s_m)],  z_m = (log tau - a_m) / s_m

    with a_m, s_m mean and standard deviation of log X in component m. Unlike the usual E|X - tau| - E|X - X'| / 2 it
    needs no
    mean, which a heavy tail makes huge: errors stay near 1e-14 of max(tau, E min). A component so wide that E min(X,
    X') is huge does make the score huge. Lower is better. Time grows with num_components^2; blocks of events bound the
    memory.

    Args:
        law: of batch shape (num_events,), not truncated.
        inter_times: (num_events,), >= 0.
    Source: Gneiting and Raftery, JASA 102 (2007), section 4.2, with |x - y| = x + y - 2 min(x, y).
    """
    law = untruncated(law).double()
    inter_times = inter_times.double()
    size = max(1, _CHUNK // law.means.shape[-1] ** 2)
    blocks = [slice(start, start + size) for start in range(0, len(inter_times), size)]
    smaller = [_expected_minimum(*_components(law[block])) for block in blocks]
    shortfall = _expected_shortfall(*_components(law), inter_times)
    return (torch.cat([shortfall[:0], *smaller]) + 2 * shortfall - inter_times).clamp_min(0.0)


def _components(law: LogNormalMixture) -> tuple[Tensor, Tensor, Tensor]:
    """log w, a and s, each (num_events, num_components)."""
    log_weights = torch.log_softmax(law.log_weights, -1)  # those of a float32 head sum to 1 within 1e-7 only
    return log_weights, law.shift + law.scale * law.means, law.scale * law.log_stds.exp()


def _expected_minimum(log_weights: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """E min(X, X'), (num_events,)."""
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
    return 2 * log_terms.exp().sum((-2, -1))


def _expected_shortfall(log_weights: Tensor, a: Tensor, s: Tensor, inter_times: Tensor) -> Tensor:
    """E (tau - X)_+, (num_events,)."""
    tau = inter_times.unsqueeze(-1)
    z = (tau.log() - a) / s
    below = (log_weights + a + 0.5 * s * s + torch.special.log_ndtr(z - s)).exp()
    return (log_weights.exp() * torch.special.ndtr(z) * tau - below).sum(-1)
