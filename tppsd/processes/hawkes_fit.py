"""Maximum likelihood fit of a multivariate Hawkes process with a sum of exponential kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.processes.excitation import EventStream, decay_gradient, excitation

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


_SPACING, _MAX_DECAYS = 5.0, 12  # of the default grid: a larger ratio of neighbours only where it needs more decays
_TOLERANCE = 1e-9  # nats per event that a fit may lack of the best mu and alpha
_REACH = 1e3  # optimised decays stay within this factor of the grid that they start from
_DECAY_TOLERANCE = 1e-8  # relative change of the log-likelihood at which their search ends


class HawkesParameters(NamedTuple):
    """Holds the parameters of a fit and what is known of it.

    Attributes:
        mu: (num_marks,).
        alpha: (num_decays, target mark, source mark).
        decays: beta, (num_decays,).
        log_likelihood: of the sequences, in nats (without the term of `pseudo_events`).
        num_events: number of events with a likelihood term.
        gap: no other mu and alpha with the same decays gain more than this, in nats.
    """

    mu: Tensor
    alpha: Tensor
    decays: Tensor
    log_likelihood: float
    num_events: int
    gap: float


def fit_parameters(
    sequences: Sequence[EventSequence] | EventBatch,
    num_marks: int | None,
    decays: Sequence[float] | Tensor | None,
    optimise_decays: bool,
    pseudo_events: float,
) -> HawkesParameters:
    """Return the parameters of largest likelihood; `tppsd.processes.fit_hawkes` explains problem and arguments."""
    rows = (
        [sequences.sequence(i) for i in range(len(sequences.mask))] if isinstance(sequences, EventBatch) else sequences
    )
    if not pseudo_events >= 0:
        raise ValueError(f"pseudo_events = {pseudo_events} must not be negative")
    stream = EventStream.of(rows, num_marks)
    rates = default_decays(rows) if decays is None else torch.as_tensor(decays, dtype=torch.float64).reshape(-1)
    if not (len(rates) and (rates > 0).all() and rates.isfinite().all()):
        raise ValueError(f"decays = {rates.tolist()} must be positive, finite numbers, and at least one")
    if optimise_decays:
        rates = _optimised(stream, rates, pseudo_events)
    fit = _concave_fit(stream, rates, pseudo_events)
    return HawkesParameters(fit.mu, fit.alpha.permute(2, 0, 1), rates, fit.log_likelihood, stream.num_events, fit.gap)


def default_decays(sequences: Sequence[EventSequence]) -> Tensor:
    """Return a grid of decay rates from 1 / (the longest window) to 1 / (a short inter-time), float64 (num_decays,).

    A short inter-time is the 5 % quantile of the positive ones. Neighbours differ by a factor of at most 5, unless that
    takes more than 12 decays. A change of the unit of time changes the grid accordingly.
    """
    inter_times = torch.cat([row.inter_times[row.num_given :] for row in sequences])
    positive = inter_times[inter_times > 0].sort().values
    if not len(positive):
        raise ValueError("no inter-time is positive: give the decays")
    shortest = float(positive[int(0.05 * len(positive))])
    longest = max(row.window_end - row.window_start for row in sequences)
    num_steps = min(_MAX_DECAYS - 1, math.ceil(round(math.log(longest / shortest) / math.log(_SPACING), 9)))
    grid: Tensor = longest**-1.0 * torch.logspace(0, 1, num_steps + 1, longest / shortest, dtype=torch.float64)
    return grid


def _optimised(stream: EventStream, decays: Tensor, pseudo_events: float) -> Tensor:
    """Return decays near `decays` at which the log-likelihood of the best mu and alpha has a local maximum.

    By the envelope theorem its derivative is that of log L with mu and alpha held fixed.
    """
    from scipy.optimize import minimize

    def loss(log_decays: Any) -> tuple[float, Any]:
        rates = torch.as_tensor(log_decays, dtype=torch.float64).exp()
        fit = _concave_fit(stream, rates, pseudo_events)
        background = pseudo_events * float(fit.mu.log().sum()) if pseudo_events else 0.0
        gradient = decay_gradient(stream, rates, fit.alpha, fit.intensities) * rates
        return -(fit.log_likelihood + background) / stream.num_events, (-gradient / stream.num_events).numpy()

    start = decays.log()
    bounds = [(x - math.log(_REACH), x + math.log(_REACH)) for x in start.tolist()]
    found = minimize(
        loss, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": _DECAY_TOLERANCE}
    )
    return torch.as_tensor(found.x, dtype=torch.float64).exp()


class _ConcaveFit(NamedTuple):
    """Holds the best mu (num_marks,) and alpha (target mark, source mark, num_decays) for given decays.

    With them come log L, a bound of what is left to gain, and lambda*_k(t) at every scored event (num_events,).
    """

    mu: Tensor
    alpha: Tensor
    log_likelihood: float
    gap: float
    intensities: Tensor


def _concave_fit(stream: EventStream, decays: Tensor, pseudo_events: float) -> _ConcaveFit:
    at_events, integral = excitation(stream, decays)
    exposure = torch.cat([integral.new_tensor([stream.duration]), integral.flatten()])  # the background's comes first
    is_term = exposure > 0
    values = torch.cat([at_events.new_ones(len(at_events), 1), at_events.flatten(1)], 1)[:, is_term] / exposure[is_term]
    background = (torch.arange(values.shape[1]) == 0).double().unsqueeze(0)
    rates = exposure.new_zeros(stream.num_marks, len(exposure))
    intensities, log_likelihood, gap = exposure.new_zeros(len(values)), 0.0, 0.0
    for mark in range(stream.num_marks):
        is_own = stream.event_marks == mark
        own = values[is_own]
        counts = own.new_ones(len(own) + 1)
        counts[-1] = pseudo_events
        triggered, own_gap = mixture_weights(torch.cat([own, background]), counts, _TOLERANCE)
        rates[mark, is_term] = triggered / exposure[is_term]
        intensities[is_own] = own @ triggered
        log_likelihood += float(intensities[is_own].log().sum() - triggered.sum())
        gap += own_gap
    alpha = rates[:, 1:].view(stream.num_marks, *integral.shape)
    return _ConcaveFit(rates[:, 0], alpha, log_likelihood, gap, intensities)
