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

from tppsd.backends.cpp.distribution import CompiledDistribution
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
    a component: the error of p is near 1e-4 (at most 2e-4 for ten models with random weights, three times that for
    left-truncated ones), and far smaller where f is smooth. That of Lambda, which takes its shape between nodes for a
    cubic, is near 3e-4 (at most 6e-4). Distributions of a compiled model are
    integrated by the same rule in compiled code. Marks that do not depend on tau have no such error (1e-6 in compiled
    code). Other distributions are integrated by Gauss-Legendre rules.

    Args:
        distributions: distributions of the next event, (num_distributions,), float64; they may be left-truncated.
        ends: float64 (num_distributions, n), inter-times c from the last event on; those below e count as e.
        sets: bool (num_sets, num_marks).

    Returns:
        p and Lambda, float64 (num_distributions, num_sets, n).
    """
    if isinstance(distributions, CompiledDistribution):
        return _compiled(distributions, ends, sets)
    if isinstance(distributions, NextEventDistribution):
        return _of_mixtures(distributions, ends, sets)
    return _of_any(distributions, ends, sets)


def event_densities(distributions: Any, inter_times: Tensor, sets: Tensor) -> Tensor:
    """Return g(tau) f(A | tau) of sets of marks, float64 (num_distributions, num_sets, n).

    It is 0 before the time without events that a distribution is given, and where tau is not positive.

    Args:
        distributions: of the next event, (num_distributions,); they may be left-truncated.
        inter_times: tau, float64 (num_distributions, n), from the last event on.
        sets: bool (num_sets, num_marks).
    """
    several, members = distributions.double().unsqueeze(0), sets.double().t()
    taus = inter_times.t()
    is_later = taus > elapsed_of(distributions)
    density = several.inter_time.log_prob(taus.clamp_min(_LEAST)).exp()  # (n, num_distributions)
    marks = several.mark_log_probs(taus.clamp_min(_LEAST)).exp().expand(*taus.shape, sets.shape[1]) @ members
    found: Tensor = torch.where(is_later.unsqueeze(-1), density.unsqueeze(-1) * marks, 0.0)
    return found.permute(1, 2, 0)


def elapsed_of(distributions: Any) -> Tensor:
    """Return the time without events that distributions are given, float64 (num_distributions,)."""
    elapsed: Tensor | None = distributions.inter_time.elapsed
    return torch.zeros(distributions.batch_shape, dtype=torch.float64) if elapsed is None else elapsed


def _compiled(distributions: CompiledDistribution, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Integrate by compiled code; where its floats cannot tell what is left beyond a silence, by operators."""
    p, hazard = distributions.mark_integrals(ends, sets)
    if distributions.elapsed is not None and len(lost := p.isnan().flatten(1).any(1).nonzero().squeeze(1)):
        p[lost], hazard[lost] = _of_mixtures(distributions[lost].with_parts(), ends[lost], sets)
    return p, hazard


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
    elif isinstance(distributions.mark_decoder, IndependentMarks):  # they ignore the time
        probs = distributions.mark_log_probs(ends[:, 0].clamp_min(_LEAST)).exp() @ sets.double().t()
        p, hazard = (values.unsqueeze(1) * probs.unsqueeze(-1) for values in _of_times(mixture, ends))
    else:
        p, hazard = _of_timed_marks(distributions, ends, sets)
    if elapsed is None:
        return p, hazard
    survival = _points(mixture, _standardised(mixture, elapsed)).survival.clamp_min(_LEAST).unsqueeze(1)
    return (p[..., 1:] - p[..., :1]) / survival, hazard[..., 1:] - hazard[..., :1]


def _standardised(mixture: LogNormalMixture, inter_times: Tensor) -> Tensor:
    """(log tau - shift) / scale, within what a log-normal can have."""
    return (inter_times.clamp_min(_LEAST).log() - mixture.shift) / mixture.scale


class _Points(NamedTuple):
    """Holds what a mixture has beyond points x of the standardised log inter-time X, each (num_distributions, n).

    Fields: survival: P(X > x); first, second: E[X; X > x] and E[X^2; X > x]; density: at x.
    """

    survival: Tensor
    first: Tensor
    second: Tensor
    density: Tensor

    @property
    def hazard(self) -> Tensor:
        """-log P(X > x)."""
        return -self.survival.clamp(torch.finfo(self.survival.dtype).tiny, 1.0).log()

    @property
    def rate(self) -> Tensor:
        """The slope of `hazard`."""
        return self.density / self.survival.clamp_min(torch.finfo(self.survival.dtype).tiny)

    def part(self, start: int, stop: int | None) -> _Points:
        """Points start..stop-1."""
        return _Points(*(values[:, start:stop] for values in self))

    def pick(self, places: Tensor) -> _Points:
        """The points at int64 places (num_distributions, m)."""
        return _Points(*(values.gather(1, places) for values in self))


def _points(mixture: LogNormalMixture, x: Tensor) -> _Points:
    """At x (num_distributions, n).

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
    return _Points(survival, first + of_peaks[..., 0], second, of_peaks[..., 2])


def _of_times(mixture: LogNormalMixture, ends: Tensor) -> tuple[Tensor, Tensor]:
    """(G(c), -log S(c)) without truncation, (num_distributions, n)."""
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


class _Parabolas(NamedTuple):
    """f(A | x) = f + slope (x - left) - bend (x - left) (left + spacing - x), in cells that begin at `left`.

    Fields: f, slope, bend (num_distributions, num_cells, num_sets).
    """

    f: Tensor
    slope: Tensor
    bend: Tensor

    @classmethod
    def through(cls, probs: Tensor) -> _Parabolas:
        """Return parabolas through values at the nodes, with the mean second derivative at both ends.

        Args:
            probs: (num_distributions, num_nodes, num_sets).
        """
        slopes = probs.diff(dim=1) / _SPACING
        at_nodes = torch.nn.functional.pad(slopes.diff(dim=1) / _SPACING, (0, 0, 1, 1))
        return cls(probs[:, :-1], slopes, 0.25 * (at_nodes[:, :-1] + at_nodes[:, 1:]))

    def pick(self, cells: Tensor) -> _Parabolas:
        """Return the parabolas of int64 cells (num_distributions, n)."""
        return _Parabolas(*(_pick(values, cells) for values in self))

    def integrals(self, before: _Points, after: _Points, left: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return what p and Lambda gain between two points of each cell: its beginning `left` and `width` behind it."""
        mass, first, second = (one - other for one, other in zip(before[:3], after[:3], strict=True))
        arch = (2 * left + _SPACING) * first - second - left * (left + _SPACING) * mass
        increase = after.hazard - before.hazard
        # Lambda is the cubic that has these increments and slopes
        rise = 0.5 * width * increase - width * width / 12 * (before.rate - after.rate)
        rise = torch.minimum(rise.clamp_min(0.0), width * increase)
        bow = increase * width * (0.5 * _SPACING - width / 3)
        return self._sum(mass, first - left * mass, arch), self._sum(increase, rise, bow)

    def _sum(self, *moments: Tensor) -> Tensor:
        once, rise, arch = (moment.unsqueeze(-1) for moment in moments)
        return self.f * once + self.slope * rise - self.bend * arch


def _timed_block(
    distributions: NextEventDistribution, ends: Tensor, members: Tensor, nodes: Tensor
) -> tuple[Tensor, Tensor]:
    """(p, Lambda), (num_distributions, n, num_sets) each, without truncation.

    Args:
        distributions: packed, (num_distributions,).
        ends: (num_distributions, n).
        members: float64 (num_marks, num_sets).
        nodes: (num_nodes,), even, standardised log inter-times; the last one is no smaller than any end's.
    """
    dtype = torch.float64 if distributions.elapsed is not None else torch.float32  # a tail may be of any depth
    x, num = _standardised(distributions.inter_time, ends), len(nodes)
    is_low = (x < nodes[0]).unsqueeze(-1)
    first_node = (
        (nodes[:1] * distributions.inter_time.scale + distributions.inter_time.shift).exp().expand(len(ends), 1)
    )
    x, nodes = x.clamp_min(float(nodes[0])).to(dtype), nodes.to(dtype)
    probs = _mark_probs(distributions, nodes, dtype) @ members.to(dtype)  # (num_distributions, nodes, sets)
    points, parabolas = (
        _points(_in(dtype, distributions.inter_time), torch.cat([nodes.expand(len(x), -1), x], 1)),
        _Parabolas.through(probs),
    )
    cells = ((x - nodes[0]) / _SPACING).long().clamp(0, num - 2)  # of the ends
    left = nodes[cells]
    whole = parabolas.integrals(points.part(0, num - 1), points.part(1, num), nodes[:-1], _SPACING)
    last = parabolas.pick(cells).integrals(points.pick(cells), points.part(num, None), left, x - left)
    f = probs[:, :1].double()  # left of the first node
    lower = zip(_of_times(distributions.inter_time, ends), _of_times(distributions.inter_time, first_node), strict=True)
    found = []
    for (low, first), of_cells, of_last in zip(lower, whole, last, strict=True):
        earlier = torch.nn.functional.pad(of_cells.cumsum(1)[:, :-1], (0, 0, 1, 0))
        value = f * first.unsqueeze(-1) + _pick(earlier, cells) + of_last
        found.append(torch.where(is_low, f * low.unsqueeze(-1), value))
    return found[0], found[1]


def _pick(values: Tensor, cells: Tensor) -> Tensor:
    """Values (num_distributions, num_cells, num_sets) at int64 cells (num_distributions, n)."""
    return values.gather(1, cells.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _in(dtype: torch.dtype, mixture: LogNormalMixture) -> LogNormalMixture:
    """The mixture in arithmetic of `dtype`, without truncation."""
    log_weights, means, log_stds = (
        values.to(dtype) for values in (mixture.log_weights, mixture.means, mixture.log_stds)
    )
    return LogNormalMixture(log_weights, means, log_stds, mixture.shift, mixture.scale)


def _mark_probs(distributions: NextEventDistribution, nodes: Tensor, dtype: torch.dtype) -> Tensor:
    """f(k | x) at standardised log inter-times (num_nodes,), in `dtype`, (num_distributions, num_nodes, num_marks)."""
    features, decoder = distributions.mark_features, distributions.mark_decoder
    assert features is not None and decoder is not None
    if dtype == torch.float32 and isinstance(decoder, DoubleMarks):
        decoder = DoubleMarks._make(values.to(dtype) for values in decoder)
        features = features.to(dtype)
    return decoder.log_probs(features.unsqueeze(1), nodes.to(features).unsqueeze(-1)).exp().to(dtype)


def _of_any(distributions: Any, ends: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre rules in the survival function for p and in time for Lambda, between consecutive ends."""
    order = ends.argsort(-1)
    elapsed = elapsed_of(distributions).unsqueeze(-1)
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
    """Nodes in (0, 1) and weights of the rule with `num` nodes."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(num)
    return torch.from_numpy(0.5 * (points + 1)), torch.from_numpy(0.5 * weights)
