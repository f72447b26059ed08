"""Vectorised inversion of increasing functions to float64 precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
_MAX_STEPS = 1000  # a run of pure bisections ends after about 1100 halvings at the worst, typically after 60


def invert_increasing(value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """x > 0 with value(x) = target, by Newton steps safeguarded by bisection.

    Every element has its own bracket and stops on its own, so its result does not depend on the others.

    Args:
        value: continuous, increasing, elementwise, value(0) = 0, unbounded.
        slope: its derivative.
        target: float64 (...), > 0.
    """
    x = target / slope(torch.zeros_like(target))  # Newton's first step from 0; at or below the solution of a concave value
    lower, upper = _bracket(value, target, torch.where(torch.isfinite(x) & (x > 0), x, 1.0))
    x = torch.where(lower > 0, lower, upper)
    step = before = upper
    done = torch.zeros_like(target, dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        gap = value(x) - target
        done = done | (gap.abs() <= 2 * _EPS * target)
        if done.all():
            return x
        lower, upper = torch.where(gap < 0, x, lower), torch.where(gap > 0, x, upper)
        newton = x - gap / slope(x)
        # a Newton step is taken if it stays inside and at least halves the last step but one (Brent 1973): else bisect
        usable = (newton >= lower) & (newton <= upper) & ((newton - x).abs() <= 0.5 * before)
        proposal = torch.where(usable, newton, 0.5 * (lower + upper))
        before, step = step, (proposal - x).abs()
        x = torch.where(done, x, proposal)
        done = done | (step <= 2 * _EPS * x)
    raise RuntimeError(f"no inverse found after {_MAX_STEPS} steps; the function is not increasing, or its value is not a number")


def _bracket(value: Callable[[Tensor], Tensor], target: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Double `upper` until value(upper) >= target; returns (lower, upper) around the solution."""
    lower = torch.zeros_like(upper)
    while (short := value(upper) < target).any():
        lower, upper = torch.where(short, upper, lower), torch.where(short, 2 * upper, upper)
        if not torch.isfinite(upper).all():
            raise RuntimeError("the compensator does not reach its target: the next event may never come")
    return lower, upper
