"""Means under a mixture of log-normals that count nothing beyond a horizon, and the score that goes with them.

A wide component of tiny weight, which costs no likelihood, makes any uncapped mean absurd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tppsd.metrics.functional.forecast import untruncated
from tppsd.models.mixture import LogNormalMixture

_CHUNK = 2**22  # components x nodes of a block of events
_EDGES = (-2.5, -0.8, 0.8, 2.5)  # of panels, in standard deviations of each component
_EDGES_OF_FEW = (-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5)  # of fewer components than ...
_FEW = 16
_NUM_EVEN_PANELS = 48  # besides, so that x hardly grows within a panel
_BELOW = 14.0  # log of the capped mean over what is far below it: e^-14 of it is not told from 0


def capped_mean(distribution: LogNormalMixture, horizon: float | Tensor) -> Tensor:
    """Return E min(X, H), float64 (num_events,): the mean inter-time where all beyond the horizon H counts as H.

        E min(X, H) = sum_m w_m [exp(a_m + s_m^2 / 2) Phi(z_m - s_m) + H Phi(-z_m)],  z_m = (log H - a_m) / s_m

    with a_m, s_m mean and standard deviation of log X in component m. It is the forecast with the least expected square
    of min(X, H). An infinite horizon gives the mean.

    Args:
        distribution: of batch shape (num_events,), not truncated.
        horizon: H > 0, in the data's unit of time; or one of each event, float64 (num_events,), all finite.

    Example:
        >>> zero = torch.zeros(1, 1, dtype=torch.float64)
        >>> standard = LogNormalMixture(zero, zero, zero)  # log X ~ Normal(0, 1)
        >>> [round(float(capped_mean(standard, h)), 3) for h in (1.0, 10.0, math.inf)]
        [0.762, 1.596, 1.649]
    """
    log_weights, a, s = components(distribution)
    if not isinstance(horizon, Tensor) and horizon == math.inf:
        return (log_weights + a + 0.5 * s * s).exp().sum(-1)
    caps = torch.as_tensor(horizon, dtype=a.dtype, device=a.device).unsqueeze(-1)
    z = (caps.log() - a) / s
    within = (log_weights + a + 0.5 * s * s + torch.special.log_ndtr(z - s)).exp()
    mean: Tensor = (within + log_weights.exp() * caps * torch.special.ndtr(-z)).sum(-1)
    return mean


def mean_share_beyond(distribution: LogNormalMixture, horizon: float) -> Tensor:
    """Return the share of the mean beyond the horizon, 1 - E min(X, H) / E X in [0, 1], float64 (num_events,).

    Where it is more than a half, the mean says more about a tail that no data have shown than about inter-times: it is
    not usable as a forecast. Arguments as in `capped_mean`.

    Example:
        >>> zero = torch.zeros(1, 1, dtype=torch.float64)
        >>> standard = LogNormalMixture(zero, zero, zero)  # log X ~ Normal(0, 1)
        >>> round(float(mean_share_beyond(standard, 1.0)), 3)
        0.538
    """
    log_weights, a, s = components(distribution)
    log_mean = torch.logsumexp(log_weights + a + 0.5 * s * s, -1)
    return -torch.expm1(capped_mean(distribution, horizon).log() - log_mean).clamp_max(0.0)


def capped_minimum(distribution: LogNormalMixture, horizon: float) -> Tensor:
    """Return E min(X, X', H) = integral_0^H S(x)^2 dx, float64 (num_events,), within 1e-4 of E min(X, H).

    X and X' are independent draws of the distribution.

    By Gauss-Legendre with two nodes on panels in log x, between quantiles of every component, so that narrow components
    are resolved, and even points, so that x is. Arguments as in `capped_mean`.
    """
    log_weights, a, s = components(distribution)
    num = a.shape[-1]
    own = a.new_tensor(_EDGES_OF_FEW if num < _FEW else _EDGES)
    size = max(1, _CHUNK // (num * (len(own) * num + _NUM_EVEN_PANELS)))
    top, weights = math.log(horizon), log_weights.exp()
    low = capped_mean(distribution, horizon).log().clamp_max(top) - _BELOW
    blocks = [slice(start, start + size) for start in range(0, len(a), size)]
    return torch.cat([a[:0, 0], *(_squared_survival(weights[b], a[b], s[b], low[b], top, own) for b in blocks)])


def _squared_survival(weights: Tensor, a: Tensor, s: Tensor, low: Tensor, top: float, own: Tensor) -> Tensor:
    """Return the integral of S(x)^2 until exp(top), (num_events,): as it is from exp(low) on, 1 before.

    S itself is computed in float32, whose error is below the rule's.
    """
    low = low.unsqueeze(-1)
    quantiles = (a.unsqueeze(-1) + s.unsqueeze(-1) * own).flatten(-2)
    even = low + (top - low) * torch.linspace(0, 1, _NUM_EVEN_PANELS + 1, dtype=a.dtype, device=a.device)
    edges = torch.cat([torch.maximum(quantiles, low).clamp_max(top), even], -1).sort(-1).values
    half = 0.5 * edges.diff(dim=-1)
    middle, total = edges[..., :-1] + half, low.squeeze(-1).exp()
    half_weights = (0.5 * weights).float().unsqueeze(-1)
    per_spread, start = ((x * math.sqrt(0.5)).float().unsqueeze(-2) for x in (1 / s, -a / s))
    for node in (-math.sqrt(1 / 3), math.sqrt(1 / 3)):
        log_x = middle + half * node
        z = torch.addcmul(start, log_x.float().unsqueeze(-1), per_spread)  # over sqrt(2)
        survival = (torch.erfc(z) @ half_weights).squeeze(-1).double()
        total = total + (half * log_x.exp() * survival.square()).sum(-1)
    return total


def components(distribution: LogNormalMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Return log w, a and s of every component, each float64 (num_events, num_components).

    a and s are mean and standard deviation of log X.
    """
    distribution = untruncated(distribution).double()
    log_weights = torch.log_softmax(distribution.log_weights, -1)  # those of a float32 head sum to 1 within 1e-7 only
    return (
        log_weights,
        distribution.shift + distribution.scale * distribution.means,
        distribution.scale * distribution.log_stds.exp(),
    )


_PAIRS = 2**17  # pairs of components of a block of events
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
    size = max(1, _PAIRS // distribution.means.shape[-1] ** 2)
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
