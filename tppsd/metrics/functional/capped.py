"""Means under a mixture of log-normals that count nothing beyond a horizon.

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


def capped_mean(distribution: LogNormalMixture, horizon: float) -> Tensor:
    """Return E min(X, H), float64 (num_events,): the mean inter-time where all beyond the horizon H counts as H.

        E min(X, H) = sum_m w_m [exp(a_m + s_m^2 / 2) Phi(z_m - s_m) + H Phi(-z_m)],  z_m = (log H - a_m) / s_m

    with a_m, s_m mean and standard deviation of log X in component m. It is the forecast with the least expected square
    of min(X, H). An infinite horizon gives the mean.

    Args:
        distribution: of batch shape (num_events,), not truncated.
        horizon: H > 0, in the data's unit of time.

    Example:
        >>> zero = torch.zeros(1, 1, dtype=torch.float64)
        >>> standard = LogNormalMixture(zero, zero, zero)  # log X ~ Normal(0, 1)
        >>> [round(float(capped_mean(standard, h)), 3) for h in (1.0, 10.0, math.inf)]
        [0.762, 1.596, 1.649]
    """
    log_weights, a, s = components(distribution)
    if horizon == math.inf:
        return (log_weights + a + 0.5 * s * s).exp().sum(-1)
    z = (math.log(horizon) - a) / s
    within = (log_weights + a + 0.5 * s * s + torch.special.log_ndtr(z - s)).exp()
    mean: Tensor = (within + log_weights.exp() * horizon * torch.special.ndtr(-z)).sum(-1)
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
