"""Probabilities and integrated intensities of sets of marks, step by step: integrals over one distribution each.

    p(c) = integral_e^c g(tau) f(A | tau) dtau / S(e),     Lambda(c) = integral_e^c g(tau) f(A | tau) / S(tau) dtau

with e the time without events that a distribution is given (0 for most).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.models.decoder import DoubleMarks, IndependentMarks
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture

_LOWEST, _SPACING = -6.0, 1 / 6  # of the nodes of f(A | tau), in standard deviations of log tau in the training split
_CHUNK = 2**17  # distributions x nodes x components of a block, which stays near a core
_NUM_NODES = 12  # of Gauss-Legendre rules between two ends, for distributions without a formula
_LEAST = 1e-290


def mark_integrals(distributions: Any, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Integrate probabilities and intensities of sets of marks over inter-times, up to several ends.

    Of a NextEventDistribution, f(A | tau) is a parabola in log tau between nodes that lie 1/6 of a standard deviation
    of log tau apart, and the mass and the first two moments of the mixture between two nodes are exact, however narrow
    a component: the error of p is below 1e-4 (3e-4 for left-truncated ones), and far smaller where f is smooth. That of
    Lambda, which takes its shape between nodes for a cubic, is below 5e-4. Marks that do not depend on tau have no such
    error. Other distributions are integrated by Gauss-Legendre rules.

    Args:
        distributions: distributions of the next event, (num_distributions,), float64; they may be left-truncated.
        ends: float64 (num_distributions, n), inter-times c from the last event on; those below e count as e.
        sets: bool (num_sets, num_marks).

    Returns:
        p and Lambda, float64 (num_distributions, num_sets, n).
    """
    if isinstance(distributions, NextEventDistribution):
        return _of_mixtures(distributions, ends, sets)
    return _of_any(distributions, ends, sets)


def _of_mixtures(distributions: NextEventDistribution, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    distributions = distributions.double().packed()
    if distributions.elapsed is not None and not bool(
        (waits := distributions.elapsed > 0).all()
    ):  # few are given a time without events
        found = [torch.empty(len(ends), len(sets), ends.shape[1], dtype=torch.float64) for _ in range(2)]
        for own, chosen in ((waits, distributions), (~waits, distributions.whole())):
            which = own.nonzero().squeeze(1)
            for values, part in zip(found, _of_mixtures(chosen[which], ends[which], sets), strict=True):
                values[which] = part
        return found[0], found[1]
    mixture = distributions.inter_time
    elapsed = None if distributions.elapsed is None else distributions.elapsed.unsqueeze(-1)
    if elapsed is not None:
        ends = torch.cat([elapsed, torch.maximum(ends, elapsed)], -1)
    if distributions.mark_features is None:
        p, hazard = _of_times(mixture, ends)
        p, hazard = (values.unsqueeze(1) * sets.any(1).double().view(-1, 1) for values in (p, hazard))
    elif _ignores_time(distributions):
        probs = distributions.mark_log_probs(ends[:, 0].clamp_min(_LEAST)).exp() @ sets.double().t()
        p, hazard = (values.unsqueeze(1) * probs.unsqueeze(-1) for values in _of_times(mixture, ends))
    else:
        p, hazard = _of_timed_marks(distributions, ends, sets)
    if elapsed is None:
        return p, hazard
    survival = _upper(mixture, _standardised(mixture, elapsed)).survival.clamp_min(_LEAST).unsqueeze(1)
    return (p[..., 1:] - p[..., :1]) / survival, hazard[..., 1:] - hazard[..., :1]


def _ignores_time(distributions: NextEventDistribution) -> bool:
    return isinstance(distributions.mark_decoder, IndependentMarks)


def _standardised(mixture: LogNormalMixture, inter_times: Tensor) -> Tensor:
    """Return (log tau - shift) / scale, within what a log-normal can have."""
    return (inter_times.clamp_min(_LEAST).log() - mixture.shift) / mixture.scale


class _Upper(NamedTuple):
    """Of the standardised log inter-time X, at points x: P(X > x), E[X; X > x], E[X^2; X > x] and the density at x."""

    survival: Tensor
    first: Tensor
    second: Tensor
    density: Tensor


def _upper(mixture: LogNormalMixture, x: Tensor) -> _Upper:
    """At x (num_distributions, n): (num_distributions, n) each.

    With d = (mu - x) / s of a component, E[X; X > x] = mu Phi(d) + s phi(d) and E[X^2; X > x] = (mu^2 + s^2) Phi(d) + s
    (mu + x) phi(d).
    """
    weights, means, stds = mixture.log_weights.exp(), mixture.means, mixture.log_stds.exp()
    z = (means.unsqueeze(1) - x.unsqueeze(-1)) * (math.sqrt(0.5) / stds).unsqueeze(
        1
    )  # (num_distributions, n, num_components)
    half, heights = 0.5 * weights, weights * (1 / math.sqrt(2 * math.pi))
    of_above = torch.erfc(-z) @ torch.stack([half, half * means, half * (means.square() + stds.square())], -1)
    spreads = heights * stds
    of_peaks = torch.exp(-z * z) @ torch.stack([spreads, spreads * means, heights / stds], -1)
    survival, first, second = of_above.unbind(-1)
    second = second + of_peaks[..., 1] + x * of_peaks[..., 0]
    return _Upper(survival, first + of_peaks[..., 0], second, of_peaks[..., 2])


def _of_times(mixture: LogNormalMixture, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return (G(c), -log S(c)) without truncation, (num_distributions, n)."""
    z = (_standardised(mixture, ends).unsqueeze(-1) - mixture.means.unsqueeze(1)) / mixture.log_stds.exp().unsqueeze(1)
    weights = mixture.log_weights.exp().unsqueeze(-1)
    below, above = (0.5 * torch.erfc(sign * math.sqrt(0.5) * z) @ weights for sign in (-1, 1))
    return below.squeeze(-1), -above.squeeze(-1).clamp(_LEAST, 1.0).log()


def _of_timed_marks(distributions: NextEventDistribution, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    mixture = distributions.inter_time
    latest = float(_standardised(mixture, ends.max())) if ends.numel() else 0.0
    nodes = _LOWEST + _SPACING * torch.arange(max(2, math.ceil((latest - _LOWEST) / _SPACING) + 1), dtype=torch.float64)
    size = max(1, _CHUNK // (len(nodes) * mixture.means.shape[-1]))
    blocks = [slice(start, start + size) for start in range(0, len(ends), size)]
    parts = [_timed_block(distributions[block], ends[block], sets.double().t(), nodes) for block in blocks]
    p, hazard = (torch.cat(part) for part in zip(*parts, strict=True))
    return p.transpose(1, 2), hazard.transpose(1, 2)


def _timed_block(
    distributions: NextEventDistribution, ends: Tensor, members: Tensor, nodes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (p, Lambda), (num_distributions, n, num_sets) each, without truncation.

    Args:
        distributions: packed, (num_distributions,).
        ends: (num_distributions, n).
        members: float64 (num_marks, num_sets).
        nodes: (num_nodes,), even, standardised log inter-times; the last one is no smaller than any end's.
    """
    dtype = torch.float64 if distributions.elapsed is not None else torch.float32  # a tail may be of any depth
    x = _standardised(distributions.inter_time, ends)
    is_low = (x < nodes[0]).unsqueeze(-1)
    x, nodes, members = x.clamp_min(float(nodes[0])).to(dtype), nodes.to(dtype), members.to(dtype)
    mixture, probs = (
        _in(dtype, distributions.inter_time),
        _mark_probs(distributions, nodes, dtype) @ members,
    )  # (num_distributions, nodes, sets)
    num, least = len(nodes), torch.finfo(dtype).tiny
    upper = _upper(mixture, torch.cat([nodes.expand(len(x), -1), x], 1))
    hazard, rate = -upper.survival.clamp(least, 1.0).log(), upper.density / upper.survival.clamp_min(least)
    slopes = probs.diff(dim=1) / _SPACING
    bends = _bends(slopes)

    def shares(
        before: _Upper,
        after: _Upper,
        hazards: tuple[Tensor, Tensor],
        rates: tuple[Tensor, Tensor],
        left: Tensor,
        width: Tensor,
        parts: tuple[Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return what p and Lambda gain from `before` to `after`, within cells that begin at `left`."""
        f, slope, bend = parts
        mass, first, second = (one - other for one, other in zip(before[:3], after[:3], strict=True))
        moment = first - left * mass
        arch = (2 * left + _SPACING) * first - second - left * (left + _SPACING) * mass
        increase = hazards[1] - hazards[0]
        of_hazard = _moment(increase, *rates, width), increase * width * (0.5 * _SPACING - width / 3)
        p, integrated = (
            f * once.unsqueeze(-1) + slope * rise.unsqueeze(-1) - bend * curve.unsqueeze(-1)
            for once, rise, curve in ((mass, moment, arch), (increase, *of_hazard))
        )
        return p, integrated

    def cut(values: Tensor, start: int, stop: int) -> Tensor:
        return values[:, start:stop]

    left, right = _Upper(*(cut(v, 0, num - 1) for v in upper)), _Upper(*(cut(v, 1, num) for v in upper))
    width = torch.full_like(left.survival, _SPACING)
    between = tuple((cut(v, 0, num - 1), cut(v, 1, num)) for v in (hazard, rate))
    whole = shares(left, right, between[0], between[1], nodes[:-1], width, (probs[:, :-1], slopes, bends))
    below = probs[:, :1]  # f left of the first node
    cell = ((x - nodes[0]) / _SPACING).long().clamp(0, num - 2)  # (num_distributions, n)

    def pick(values: Tensor) -> Tensor:
        """(num_distributions, cells, ...) at the cell of each end."""
        wide = cell if values.dim() == 2 else cell.unsqueeze(-1).expand(-1, -1, values.shape[-1])
        return values.gather(1, wide)

    start, stop = _Upper(*(pick(v) for v in upper)), _Upper(*(v[:, num:] for v in upper))
    within = tuple((pick(v), v[:, num:]) for v in (hazard, rate))
    at = nodes[cell]
    last = shares(start, stop, within[0], within[1], at, x - at, (pick(probs), pick(slopes), pick(bends)))
    first_node = (nodes[:1].double() * mixture.scale + mixture.shift).exp().expand(len(ends), 1)
    found = []
    for low, first, before, part in zip(
        _of_times(distributions.inter_time, ends),
        _of_times(distributions.inter_time, first_node),
        whole,
        last,
        strict=True,
    ):
        earlier = torch.nn.functional.pad(before.cumsum(1)[:, :-1], (0, 0, 1, 0))
        value = below * first.unsqueeze(-1) + pick(earlier) + part
        found.append(torch.where(is_low, below * low.unsqueeze(-1), value.double()))
    return found[0], found[1]


def _in(dtype: torch.dtype, mixture: LogNormalMixture) -> LogNormalMixture:
    """Return the mixture in arithmetic of `dtype`, without truncation."""
    log_weights, means, log_stds = (
        values.to(dtype) for values in (mixture.log_weights, mixture.means, mixture.log_stds)
    )
    return LogNormalMixture(log_weights, means, log_stds, mixture.shift, mixture.scale)


def _mark_probs(distributions: NextEventDistribution, nodes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return f(k | x) at standardised log inter-times (num_nodes,), in `dtype`.

    Its shape is (num_distributions, num_nodes, num_marks).
    """
    features, decoder = distributions.mark_features, distributions.mark_decoder
    assert features is not None and decoder is not None
    if dtype == torch.float32 and isinstance(decoder, DoubleMarks):
        decoder = DoubleMarks._make(values.to(dtype) for values in decoder)
        features = features.to(dtype)
    return decoder.log_probs(features.unsqueeze(1), nodes.to(features).unsqueeze(-1)).exp().to(dtype)


def _bends(slopes: Tensor) -> Tensor:
    """Return half the second derivative within each cell.

    It comes from slopes (num_distributions, num_cells, num_sets) of the cell and its neighbours.
    """
    at_nodes = torch.nn.functional.pad(slopes.diff(dim=1) / _SPACING, (0, 0, 1, 1))
    return 0.25 * (at_nodes[:, :-1] + at_nodes[:, 1:])


def _moment(hazards: Tensor, rate_before: Tensor, rate_after: Tensor, widths: Tensor) -> Tensor:
    """Integrate (x - x_0) dLambda from x_0 over `widths`.

    Lambda is the cubic that has these increments and slopes.
    """
    moment = 0.5 * widths * hazards - widths * widths / 12 * (rate_before - rate_after)
    return torch.minimum(moment.clamp_min(0.0), widths * hazards)


def _of_any(distributions: Any, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Integrate by Gauss-Legendre rules between consecutive ends.

    They run over the survival function for p and over time for Lambda.
    """
    order = ends.argsort(-1)
    elapsed = distributions.inter_time.elapsed.unsqueeze(-1)
    edges = torch.cat([elapsed, torch.maximum(ends.gather(-1, order), elapsed)], -1)
    points, weights = _gauss_legendre(_NUM_NODES)
    members = sets.double().t()

    def between(values: Tensor) -> Tensor:
        """Nodes between consecutive values (num_distributions, n + 1): (num_nodes, n, num_distributions)."""
        low, width = values[:, :-1].t(), values.diff(dim=-1).t()
        return low + width * points.view(-1, 1, 1)

    levels = distributions.log_survival(edges.t()).exp().t()
    taus = distributions.inter_time.sample(between(levels).clamp(1e-300, 1.0 - 1e-16).unsqueeze(-1))
    shares = distributions.mark_log_probs(taus).exp() @ members  # (num_nodes, n, num_distributions, num_sets)
    p = (shares * weights.view(-1, 1, 1, 1)).sum(0) * -levels.diff(dim=-1).t().unsqueeze(-1)
    taus = between(edges)
    log_hazard = distributions.mark_log_probs(taus) + (
        distributions.inter_time.log_prob(taus) - distributions.log_survival(taus)
    ).unsqueeze(-1)
    hazards = log_hazard.exp() @ members
    hazard = (hazards * weights.view(-1, 1, 1, 1)).sum(0) * edges.diff(dim=-1).t().unsqueeze(-1)
    back = order.argsort(-1).unsqueeze(1).expand(-1, len(sets), -1)
    p, hazard = (values.cumsum(0).permute(1, 2, 0).gather(-1, back) for values in (p, hazard))
    return p, hazard


@lru_cache(maxsize=4)
def _gauss_legendre(num: int) -> tuple[Tensor, Tensor]:
    """Return nodes in (0, 1) and weights of the rule with `num` nodes."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(num)
    return torch.from_numpy(0.5 * (points + 1)), torch.from_numpy(0.5 * weights)
