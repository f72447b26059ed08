"""Maximum likelihood fit of a multivariate Hawkes process with a sum of exponential kernels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import EventBatch
from tppsd.data.sequences import EventSequence
from tppsd.processes.excitation import EventStream, decay_gradient, excitation
from tppsd.processes.hawkes import Hawkes

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


class HawkesFit(NamedTuple):
    """Holds a fitted process and what is known of the fit.

    Attributes:
        process: the process; its `alpha` is (num_decays, num_marks, num_marks), its `beta` one decay rate per decay.
        log_likelihood: of the sequences under it, in nats (without the term of `pseudo_events`).
        num_events: number of events with a likelihood term.
        gap: no other mu and alpha with the same decays gain more than this, in nats.
    """

    process: Hawkes
    log_likelihood: float
    num_events: int
    gap: float

    @property
    def branching_ratio(self) -> float:
        """The `Hawkes.branching_ratio`: with 1 or more the process explodes as time goes on."""
        return self.process.branching_ratio


def fit_hawkes(
    sequences: Sequence[EventSequence] | EventBatch,
    num_marks: int | None = None,
    decays: Sequence[float] | Tensor | None = None,
    optimise_decays: bool = False,
    pseudo_events: float = 0.0,
) -> HawkesFit:
    """Fit lambda*_m(t) = mu_m + sum_d sum_n alpha_dmn sum_{t_j < t, k_j = n} exp(-beta_d (t - t_j)).

        log L = sum_i log lambda*_{k_i}(t_i) - sum_m [mu_m T + sum_dn alpha_dmn C_dn]
        A_dn(t) = sum_{t_j < t, k_j = n} exp(-beta_d (t - t_j)),   C_dn = integral of A_dn over the windows

    For fixed decays log L is concave in (mu, alpha) >= 0 and falls apart into one problem for each mark m. In terms of
    p = alpha C, the expected number of events of mark m that a term triggers, each is the fit of a mixture's weights
    (`mixture_weights`), solved to 1e-9 nats per event of its maximum. A is computed once, in time linear in the number
    of events. The decays are a grid, or start from one and are optimised with the exact gradient of the maximum, which
    is not concave in them: a local maximum.

    Args:
        sequences: with or without `t_start` and `t_end`; given events excite and have no term.
        num_marks: number of marks; None = 1 + the largest that occurs.
        decays: beta_d > 0, per unit of time; None = `default_decays`.
        optimise_decays: move the decays to a maximum nearby.
        pseudo_events: events of each mark that are added to the data and ascribed to the background, a fraction or
            more: they keep mu from vanishing where all events of a mark follow others, or none occurs (log L gains
            pseudo_events * sum_m log mu_m). 0 = maximum likelihood.

    Raises:
        ValueError: nothing to fit to, marks out of range, or decays that are not positive.

    Warns:
        UserWarning: the branching ratio is 1 or more.

    Source: Ozaki, Ann. Inst. Stat. Math. 31 (1979); Bacry, Mastromatteo and Muzy, "Hawkes processes in finance" (2015).
    """
    return maximum_likelihood(sequences, num_marks, decays, optimise_decays, pseudo_events)


def maximum_likelihood(
    sequences: Sequence[EventSequence] | EventBatch,
    num_marks: int | None,
    decays: Sequence[float] | Tensor | None,
    optimise_decays: bool,
    pseudo_events: float,
) -> HawkesFit:
    """Return what `fit_hawkes` and `Hawkes.fit` return, whose arguments these are, and warn those who called them."""
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
    process = Hawkes(fit.mu, fit.alpha.permute(2, 0, 1), rates, is_stable=False)
    if process.branching_ratio >= 1:
        warnings.warn(
            f"the fitted Hawkes process has a branching ratio of {process.branching_ratio:.3g}: with 1 or more, the "
            "number of events explodes on windows that are long beside those it was fitted to",
            stacklevel=3,
        )
    return HawkesFit(process, fit.log_likelihood, stream.num_events, fit.gap)


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
