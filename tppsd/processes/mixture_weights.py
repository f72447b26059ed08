"""Maximum likelihood weights of a mixture of known non-negative functions: a concave problem with a proven gap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MAX_STEPS = 200  # a fit takes 15 to 40
_NUM_EM_STEPS = 10  # of the start
_SHRINK = 0.1  # of the barrier's weight at every step
_BACK_OFF = 0.995  # share of the way to the boundary that a step may go
_ENOUGH = 1e-4  # share of the gain promised by the slope that a step must bring
_TINY, _ROUNDING = 1e-300, 1e-9


def mixture_weights(values: Tensor, counts: Tensor, tolerance: float = 1e-9) -> tuple[Tensor, float]:
    """Maximise a mixture's log-likelihood over its weights p >= 0.

        F(p) = sum_i w_i log(sum_r p_r g_ir) - sum_r p_r

    Newton steps on F with a vanishing logarithmic barrier (primal-dual interior point, Boyd and Vandenberghe, Convex
    Optimization (2004), section 11.7), after some steps of EM. F is concave, and at the maximum sum p = sum w = W. With
    rho = max_r sum_i w_i g_ir / (sum_r p_r g_ir) at such a p, duality bounds what is left to gain: F* - F(p) <= W log
    rho (Kim et al., J. Comput. Graph. Stat. 29 (2020), section 3). Weights that should vanish come out tiny, not zero.

    Args:
        values: g >= 0, float64 (num_rows, num_components), a positive entry in every row.
        counts: w >= 0, (num_rows,).
        tolerance: largest gap per count, F* - F(p) <= tolerance * W.

    Returns:
        p, (num_components,), and the bound of the gap, in nats.

    Raises:
        RuntimeError: the gap does not close.
    """
    total = float(counts.sum())
    values, counts = values[counts > 0], counts[counts > 0]
    is_used = values.sum(0) > 0
    result = values.new_zeros(values.shape[1])
    if not total:
        return result, 0.0
    values = values[:, is_used]
    weights = values.new_full((values.shape[1],), total / values.shape[1])
    for _ in range(_NUM_EM_STEPS):
        weights = weights * _slopes(values, counts, weights)
    weights = weights.clamp_min(1e-6 * total / len(weights))
    slacks = torch.ones_like(weights)  # dual variables of p >= 0
    for _ in range(_MAX_STEPS):
        weights = weights * (total / weights.sum())
        gap = total * math.log(max(1.0, float(_slopes(values, counts, weights).max())))
        if gap <= tolerance * total:
            result[is_used] = weights
            return result, gap
        weights, slacks = _newton_step(values, counts, weights, slacks)
    raise RuntimeError(f"the weights of a mixture are {gap:.3g} nats from their maximum after {_MAX_STEPS} steps")


def _slopes(values: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i w_i g_ir / (g p)_i: the gradient of F, plus 1."""
    return (counts / (values @ weights)) @ values


def _newton_step(values: Tensor, counts: Tensor, weights: Tensor, slacks: Tensor) -> tuple[Tensor, Tensor]:
    """Make one step of p and of its dual variables z towards grad F + z = 0, p z = a tenth of what it is."""
    barrier = _SHRINK * float(weights @ slacks) / len(weights)
    shares = values * weights / (values @ weights).unsqueeze(1)  # sum to 1 in every row; relative steps are well scaled
    downhill = counts @ shares - weights + barrier
    hessian = (shares * counts.unsqueeze(1)).T @ shares
    hessian.diagonal().add_(weights * slacks)
    step = torch.linalg.solve(hessian, downhill)  # dp / p
    slack_step = barrier / weights - slacks - slacks * step
    size = min(1.0, _BACK_OFF / max(_TINY, float(-step.min())))
    along, promised = shares @ step, _ENOUGH * float(downhill @ step)
    while size > _TINY and _gain(along * size, step * size, counts, weights, barrier) < promised * size - _ROUNDING:
        size *= 0.5
    slack_size = min(1.0, _BACK_OFF / max(_TINY, float(-(slack_step / slacks).min())))
    return weights * (1 + size * step), slacks + slack_size * slack_step


def _gain(along: Tensor, step: Tensor, counts: Tensor, weights: Tensor, barrier: float) -> float:
    """Return what F(p) + barrier * sum log p gains from p to p (1 + step); `along` = shares @ step."""
    return float(counts @ torch.log1p(along) - weights @ step + barrier * torch.log1p(step).sum())
