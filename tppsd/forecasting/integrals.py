"""Probabilities and integrated intensities of sets of marks, step by step: integrals over one distribution each.

    p(c) = integral_e^c g(tau) f(A | tau) dtau / S(e),     Lambda(c) = integral_e^c g(tau) f(A | tau) / S(tau) dtau

with e the time without events that a distribution is given (0 for most).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tppsd.models.law import NextEventLaw
from tppsd.models.mixture import LogNormalMixture

_LOWEST, _SPACING = -6.0, 0.125  # of the nodes of f(A | tau), in standard deviations of log tau in the training split
_CHUNK = 2**17  # distributions x nodes x components of a block, which stays near a core
_NUM_NODES = 12  # of Gauss-Legendre rules between two ends, for distributions without a formula
_LEAST = 1e-290


def mark_integrals(laws: Any, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Integrate probabilities and intensities of sets of marks over inter-times, up to several ends.

    Of a NextEventLaw, f(A | tau) is a parabola in log tau between nodes that lie 1/8 of a standard deviation of log tau
    apart, and the mass and the mean of the mixture between two nodes are exact: however narrow a component, the error of
    p is below 1/256 of the largest second derivative of f(A | .) in these units, and where components are wider than
    that distance and f is smooth it is far smaller (below 2e-5 with random weights). Marks that do not depend on tau have
    no such error. Other distributions are integrated by Gauss-Legendre rules.

    Args:
        laws: distributions of the next event, (num_laws,), float64; they may be left-truncated.
        ends: float64 (num_laws, n), inter-times c from the last event on; those below e count as e.
        sets: bool (num_sets, num_marks).

    Returns:
        p and Lambda, float64 (num_laws, num_sets, n).
    """
    if isinstance(laws, NextEventLaw):
        return _of_mixtures(laws, ends, sets)
    return _of_any(laws, ends, sets)


def _of_mixtures(laws: NextEventLaw, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    laws = laws.double().packed()
    mixture = laws.inter_time
    elapsed = None if laws.elapsed is None else laws.elapsed.unsqueeze(-1)
    if elapsed is not None:
        ends = torch.cat([elapsed, torch.maximum(ends, elapsed)], -1)
    if laws.mark_features is None:
        p, hazard = _of_times(mixture, ends)
        p, hazard = (values.unsqueeze(1) * sets.any(1).double().view(-1, 1) for values in (p, hazard))
    elif _ignores_time(laws):
        probs = laws.mark_log_probs(ends[:, 0].clamp_min(_LEAST)).exp() @ sets.double().t()
        p, hazard = (values.unsqueeze(1) * probs.unsqueeze(-1) for values in _of_times(mixture, ends))
    else:
        p, hazard = _of_timed_marks(laws, ends, sets)
    if elapsed is None:
        return p, hazard
    survival = _upper(mixture, _standardised(mixture, elapsed))[0].clamp_min(_LEAST).unsqueeze(1)
    return (p[..., 1:] - p[..., :1]) / survival, hazard[..., 1:] - hazard[..., :1]


def _ignores_time(laws: NextEventLaw) -> bool:
    from tppsd.models.decoder import IndependentMarks

    return isinstance(laws.mark_decoder, IndependentMarks)


def _standardised(mixture: LogNormalMixture, inter_times: Tensor) -> Tensor:
    """(log tau - shift) / scale, within what a log-normal can have."""
    return (inter_times.clamp_min(_LEAST).log() - mixture.shift) / mixture.scale


def _upper(mixture: LogNormalMixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P(X > x), E[X; X > x], density at x) of the standardised log inter-time, at x (num_laws, n): (num_laws, n) each."""
    inverse_std = torch.exp(-mixture.log_stds).unsqueeze(1)
    z = (mixture.means.unsqueeze(1) - x.unsqueeze(-1)) * inverse_std  # (num_laws, n, num_components)
    weights = mixture.log_weights.exp()
    above = 0.5 * torch.erfc(z * -math.sqrt(0.5))
    peaks = torch.exp(-0.5 * z * z)
    survival = (above @ weights.unsqueeze(-1)).squeeze(-1)
    heights = weights * inverse_std.squeeze(1) / math.sqrt(2 * math.pi)
    spreads = weights * mixture.log_stds.exp() / math.sqrt(2 * math.pi)
    of_peaks = peaks @ torch.stack([spreads, heights], -1)
    first = (above @ (weights * mixture.means).unsqueeze(-1)).squeeze(-1) + of_peaks[..., 0]
    return survival, first, of_peaks[..., 1]


def _of_times(mixture: LogNormalMixture, ends: Tensor) -> tuple[Tensor, Tensor]:
    """(G(c), -log S(c)) without truncation, (num_laws, n)."""
    z = (_standardised(mixture, ends).unsqueeze(-1) - mixture.means.unsqueeze(1)) / mixture.log_stds.exp().unsqueeze(1)
    weights = mixture.log_weights.exp().unsqueeze(-1)
    below, above = (0.5 * torch.erfc(sign * math.sqrt(0.5) * z) @ weights for sign in (-1, 1))
    return below.squeeze(-1), -above.squeeze(-1).clamp(_LEAST, 1.0).log()


def _of_timed_marks(laws: NextEventLaw, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    mixture = laws.inter_time
    latest = float(_standardised(mixture, ends.max())) if ends.numel() else 0.0
    nodes = _LOWEST + _SPACING * torch.arange(max(2, math.ceil((latest - _LOWEST) / _SPACING) + 1), dtype=torch.float64)
    size = max(1, _CHUNK // (len(nodes) * mixture.means.shape[-1]))
    blocks = [slice(start, start + size) for start in range(0, len(ends), size)]
    parts = [_timed_block(laws[block], ends[block], sets.double().t(), nodes) for block in blocks]
    p, hazard = (torch.cat(part) for part in zip(*parts, strict=True))
    return p.transpose(1, 2), hazard.transpose(1, 2)


def _timed_block(laws: NextEventLaw, ends: Tensor, members: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(p, Lambda), (num_laws, n, num_sets) each, without truncation.

    Args:
        laws: packed, (num_laws,).
        ends: (num_laws, n).
        members: float64 (num_marks, num_sets).
        nodes: (num_nodes,), even, standardised log inter-times; the last one is no smaller than any end's.
    """
    mixture = laws.inter_time
    x = _standardised(mixture, ends).clamp_min(float(nodes[0]))
    both = torch.cat([nodes.expand(len(x), -1), x], 1)
    survival, first, density = _upper(mixture, both)
    hazard, rate = -survival.clamp(_LEAST, 1.0).log(), density / survival.clamp_min(_LEAST)
    features, decoder = laws.mark_features, laws.mark_decoder
    assert features is not None and decoder is not None
    probs = decoder.log_probs(features.unsqueeze(1), nodes.unsqueeze(-1)).exp() @ members  # (num_laws, nodes, sets)
    num = len(nodes)
    slopes = probs.diff(dim=1) / _SPACING
    mass = (survival[:, : num - 1] - survival[:, 1:num]).unsqueeze(-1)
    moment = (first[:, : num - 1] - first[:, 1:num]).unsqueeze(-1) - nodes[:-1].view(-1, 1) * mass
    hazards = hazard[:, :num].diff(dim=1)
    hazard_moment = _moment(hazards, rate[:, : num - 1], rate[:, 1:num], torch.full_like(hazards, _SPACING))
    below = probs[:, :1]  # f left of the first node
    bends = _bends(slopes)
    curved = probs[:, :-1] - bends * (_SPACING**2 / 6)  # the parabola's share, as if what is in a cell lay evenly
    p_at = (curved * mass + slopes * moment).cumsum(1)
    hazard_at = (curved * hazards.unsqueeze(-1) + slopes * hazard_moment.unsqueeze(-1)).cumsum(1)
    p_at, hazard_at = (torch.cat([torch.zeros_like(below), values[:, :-1]], 1) for values in (p_at, hazard_at))
    cell = ((x - nodes[0]) / _SPACING).long().clamp(0, num - 2)  # (num_laws, n)

    def pick(values: Tensor) -> Tensor:
        """(num_laws, cells, ...) at the cell of each end."""
        wide = cell if values.dim() == 2 else cell.unsqueeze(-1).expand(-1, -1, values.shape[-1])
        return values.gather(1, wide)

    left = nodes[cell]
    part = (pick(survival) - survival[:, num:]).unsqueeze(-1)
    part_moment = (pick(first) - first[:, num:]).unsqueeze(-1) - left.unsqueeze(-1) * part
    slope, width = pick(slopes), (x - left).unsqueeze(-1)
    f = pick(probs) - pick(bends) * width * (0.5 * _SPACING - width / 3)
    hazards = hazard[:, num:] - pick(hazard)
    hazard_moment = _moment(hazards, pick(rate), rate[:, num:], x - left)
    is_low = (_standardised(mixture, ends) < nodes[0]).unsqueeze(-1)
    low, low_hazard = _of_times(mixture, ends)
    first_p, first_hazard = _of_times(mixture, (nodes[:1] * mixture.scale + mixture.shift).exp().expand(len(ends), 1))
    p = below * first_p.unsqueeze(-1) + pick(p_at) + f * part + slope * part_moment
    integrated = below * first_hazard.unsqueeze(-1) + pick(hazard_at)
    integrated = integrated + f * hazards.unsqueeze(-1) + slope * hazard_moment.unsqueeze(-1)
    p = torch.where(is_low, below * low.unsqueeze(-1), p)
    return p, torch.where(is_low, below * low_hazard.unsqueeze(-1), integrated)


def _bends(slopes: Tensor) -> Tensor:
    """Half the second derivative within each cell, from slopes (num_laws, num_cells, num_sets) of it and its neighbours."""
    at_nodes = torch.nn.functional.pad(slopes.diff(dim=1) / _SPACING, (0, 0, 1, 1))
    return 0.25 * (at_nodes[:, :-1] + at_nodes[:, 1:])


def _moment(hazards: Tensor, rate_before: Tensor, rate_after: Tensor, widths: Tensor) -> Tensor:
    """Integrate (x - x_0) dLambda from x_0 over `widths`, with Lambda the cubic that has these increments and slopes."""
    moment = 0.5 * widths * hazards - widths * widths / 12 * (rate_before - rate_after)
    return torch.minimum(moment.clamp_min(0.0), widths * hazards)


def _of_any(laws: Any, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre rules in the survival function for p and in time for Lambda, between consecutive ends."""
    order = ends.argsort(-1)
    elapsed = laws.inter_time.elapsed.unsqueeze(-1)
    edges = torch.cat([elapsed, torch.maximum(ends.gather(-1, order), elapsed)], -1)
    points, weights = _gauss_legendre(_NUM_NODES)
    members = sets.double().t()

    def between(values: Tensor) -> Tensor:
        """Nodes between consecutive values (num_laws, n + 1): (num_nodes, n, num_laws)."""
        low, width = values[:, :-1].t(), values.diff(dim=-1).t()
        return low + width * points.view(-1, 1, 1)

    levels = laws.log_survival(edges.t()).exp().t()
    taus = laws.inter_time.sample(between(levels).clamp(1e-300, 1.0 - 1e-16).unsqueeze(-1))
    shares = laws.mark_log_probs(taus).exp() @ members  # (num_nodes, n, num_laws, num_sets)
    p = (shares * weights.view(-1, 1, 1, 1)).sum(0) * -levels.diff(dim=-1).t().unsqueeze(-1)
    taus = between(edges)
    log_hazard = laws.mark_log_probs(taus) + (laws.inter_time.log_prob(taus) - laws.log_survival(taus)).unsqueeze(-1)
    hazards = log_hazard.exp() @ members
    hazard = (hazards * weights.view(-1, 1, 1, 1)).sum(0) * edges.diff(dim=-1).t().unsqueeze(-1)
    back = order.argsort(-1).unsqueeze(1).expand(-1, len(sets), -1)
    p, hazard = (values.cumsum(0).permute(1, 2, 0).gather(-1, back) for values in (p, hazard))
    return p, hazard


@lru_cache(maxsize=4)
def _gauss_legendre(num: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights of the rule with `num` nodes."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(num)
    return torch.from_numpy(0.5 * (points + 1)), torch.from_numpy(0.5 * weights)
