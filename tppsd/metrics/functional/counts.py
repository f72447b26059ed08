"""Scores of forecast counts, and of other values along sampled paths.

`samples` (num_paths, *cases) are along paths that are i.i.d. given their case, and `observed` (*cases,) is what
happened; a case is a history, and further dimensions may be marks and horizons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence


class NumberTest(NamedTuple):
    """Holds quantile scores of the observed numbers, float64 (*cases,): P(N >= observed) and P(N <= observed)."""

    delta_1: Tensor
    delta_2: Tensor


def horizon_counts(sequence: EventSequence, start: float, horizons: Sequence[float], num_marks: int) -> Tensor:
    """Count the events of each mark in (start, start + h] for every horizon h, int64 (num_marks, num_horizons).

    Example:
        >>> sequence = EventSequence.of([1.0, 2.0, 2.5, 4.0], marks=[0, 1, 0, 1])
        >>> horizon_counts(sequence, start=1.0, horizons=[1.0, 3.0], num_marks=2)
        tensor([[0, 1],
                [1, 2]])
    """
    ends = start + torch.tensor(horizons, dtype=torch.float64)
    is_in = (sequence.event_times.unsqueeze(1) > start) & (sequence.event_times.unsqueeze(1) <= ends)
    counts = torch.zeros(num_marks, len(ends), dtype=torch.int64)
    return counts.index_add_(0, sequence.marks, is_in.long())


def crps_of_counts(samples: Tensor, observed: Tensor) -> Tensor:
    """Return the continuous ranked probability score of counts, without bias from S paths, float64 (*cases,).

        CRPS = sum_n (F(n) - 1{n >= y})^2  ~  1/S sum_s |x_s - y| - 1/(2 S (S - 1)) sum_s sum_s' |x_s - x_s'|

    The "fair" score: its expectation is the score of the distribution of the paths, so that few paths are not punished,
    and it may be negative. In numbers of events; lower is better.

    Args:
        samples: (num_paths, *cases), at least two paths.
        observed: (*cases,).
    Source: Ferro, Q. J. R. Meteorol. Soc. 140 (2014); Gneiting and Raftery, JASA 102 (2007).

    Example:
        >>> paths = torch.tensor([0, 1, 1, 2])
        >>> crps_of_counts(paths, torch.tensor(1)), crps_of_counts(paths, torch.tensor(4))
        (tensor(0., dtype=torch.float64), tensor(2.5000, dtype=torch.float64))
    """
    num_paths = len(samples)
    if num_paths < 2:
        raise ValueError(f"a fair CRPS needs at least 2 paths; got {num_paths}")
    ordered = samples.double().sort(0).values
    ranks = torch.arange(1, num_paths + 1, dtype=torch.float64, device=samples.device) * 2 - num_paths - 1
    spread = torch.tensordot(ranks, ordered, 1) / (num_paths * (num_paths - 1))
    scores: Tensor = (ordered - observed.double()).abs().mean(0) - spread
    return scores


def log_score(probs: Tensor, observed: Tensor) -> Tensor:
    """Return the negative log-probability of what happened, - log p(y), in nats, float64 (*cases,); lower is better.

    Args:
        probs: (*cases, num_values), of the values 0, 1, ...; a value beyond them has probability 0.
        observed: int64 (*cases,).
    Source: Good, J. R. Stat. Soc. B 14 (1952).

    Example:
        >>> log_score(torch.tensor([0.5, 0.25, 0.25]), torch.tensor(1)).exp()
        tensor(4., dtype=torch.float64)
    """
    beyond = observed >= probs.shape[-1]
    picked = probs.double().gather(-1, observed.clamp_max(probs.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return -torch.where(beyond, 0.0, picked).log()


def log_score_of_counts(samples: Tensor, observed: Tensor) -> Tensor:
    """Return the log score of the smoothed frequencies of counts along S paths, in nats, float64 (*cases,).

    Lower is better.

        - log p(y),   p(n) = (#{s: x_s = n} + q(n)) / (S + 1),   q(n) = m^n / (1 + m)^(n + 1),   m = (sum_s x_s + 1) / S

    One more path is spread over all counts by a geometric distribution of about the paths' mean, so that a count that
    no path has costs much, but not everything. p sums to 1. With it the score depends on S: compare at equal numbers of
        paths.

    Args:
        samples: (num_paths, *cases).
        observed: (*cases,).

    Example:
        >>> paths = torch.tensor([0, 1, 1, 2])
        >>> [round(float(log_score_of_counts(paths, torch.tensor(y))), 2) for y in (1, 4)]
        [0.8, 4.77]
    """
    num_paths, y = len(samples), observed.double()
    mean = (samples.double().sum(0) + 1) / num_paths
    log_spread = y * mean.log() - (y + 1) * torch.log1p(mean)
    hits = (samples == observed).sum(0).double()
    return math.log(num_paths + 1) - torch.logaddexp(hits.log(), log_spread)


def randomised_pit(samples: Tensor, observed: Tensor, uniforms: Tensor) -> Tensor:
    """Return the randomised probability integral transform of counts, float64 (*cases,) in (0, 1).

        u = (#{s: x_s < y} + v (1 + #{s: x_s = y})) / (S + 1),   v ~ U(0, 1)

    Exactly uniform, for any number of paths, if the observed counts come from the distribution of the paths (y is then
    any of S + 1 exchangeable values, ties broken at random).

    Args:
        samples: (num_paths, *cases).
        observed: (*cases,).
        uniforms: v, (*cases,), in (0, 1), independent of all else.
    Source: Czado, Gneiting and Held, Biometrics 65 (2009).

    Example:
        >>> randomised_pit(torch.tensor([0, 1, 1, 2]), torch.tensor(1), torch.tensor(0.5))
        tensor(0.5000, dtype=torch.float64)
    """
    below, equal = (samples < observed).sum(0), (samples == observed).sum(0)
    return (below + uniforms.double() * (1 + equal)) / (len(samples) + 1)


def central_interval(samples: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return the central interval of S paths, lower and upper end, each (*cases,).

        [x_(k), x_(S + 1 - k)],   k = floor((S + 1) (1 - level) / 2)

    It holds a further draw with probability at least `level`, and for continuous values with (S + 1 - 2 k) / (S + 1):
    counts have ties and are covered more often. Coverage at the nominal level is that of `pit_coverage`.

    Args:
        samples: (num_paths, *cases), with (num_paths + 1) (1 - level) >= 2.
        level: in (0, 1).

    Example:
        >>> central_interval(torch.arange(1, 100), level=0.8)
        (tensor(10), tensor(90))
    """
    num_paths = len(samples)
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must lie between 0 and 1")
    outside = int((num_paths + 1) * (1 - level) / 2 + 1e-9)
    if outside < 1:
        raise ValueError(f"a central interval of level {level} needs more than {num_paths} paths")
    ordered = samples.sort(0).values
    return ordered[outside - 1], ordered[num_paths - outside]


def pit_coverage(pits: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the share of cases inside central intervals, float64 (num_levels, ...), over dimension 0 of `pits`.

        coverage(level) = mean_i 1{|u_i - 1/2| <= level / 2}

    It is `level` for a right forecast, of counts too, if the u_i are randomised.

    Args:
        pits: u, (num_cases, ...), of `randomised_pit`.
        levels: such as (0.5, 0.8, 0.95).

    Example:
        >>> pit_coverage(torch.tensor([0.1, 0.4, 0.5, 0.98]), [0.5, 0.9])
        tensor([0.5000, 0.7500], dtype=torch.float64)
    """
    half = torch.tensor(levels, dtype=torch.float64, device=pits.device).view(-1, *[1] * pits.dim()) / 2
    return ((pits.double() - 0.5).abs() <= half).double().mean(1)


def number_test(samples: Tensor, observed: Tensor) -> NumberTest:
    """Test catalogue forecasts by number (CSEP N-test): how far out the observed number of events lies.

        delta_1 = P(N >= y) = #{s: x_s >= y} / S,   delta_2 = P(N <= y) = #{s: x_s <= y} / S

    A small delta_1 says that the forecast is too low, a small delta_2 that it is too high. A forecast passes at the 5 %
    level if both exceed 0.025.

    Args:
        samples: (num_paths, *cases).
        observed: (*cases,).
    Source: Zechar, Gerstenberger and Rhoades, Bull. Seismol. Soc. Am. 100 (2010); for simulated catalogues Savran et
        al., ibid. 110 (2020).

    Example:
        >>> found = number_test(torch.tensor([3, 4, 5, 6]), torch.tensor(5))
        >>> float(found.delta_1), float(found.delta_2)
        (0.5, 0.75)
    """
    return NumberTest((samples >= observed).double().mean(0), (samples <= observed).double().mean(0))
