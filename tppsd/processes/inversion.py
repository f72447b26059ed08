"""Vectorised inversion of increasing functions to float64 precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
_MAX_STEPS = 1100  # doubling from 1 to the largest float64 takes 1024 steps; an inversion typically takes 5


def invert_increasing(value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """Return x > 0 with value(x) = target, by Newton steps safeguarded by doubling and bisection.

    Every element has its own bracket and stops on its own, so its result does not depend on the others.

    Args:
        value: continuous, increasing, elementwise, value(0) = 0, unbounded.
        slope: its derivative.
        target: float64 (...), > 0.
    """
    lower, upper = torch.zeros_like(target), torch.full_like(target, torch.inf)
    before = step = upper
    x = target / slope(lower)  # Newton's step from 0; no further than the solution if `value` is concave
    x = torch.where(torch.isfinite(x), x, 1.0)
    done = torch.zeros_like(target, dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        gap = value(x) - target
        done = done | (gap.abs() <= 2 * _EPS * target) | (step < 2 * _EPS * x)
        if done.all():
            return x
        lower, upper = torch.where(gap < 0, x, lower), torch.where(gap > 0, x, upper)
        newton = x - gap / slope(x)
        # a Newton step is taken if it stays inside and at least halves the last step but one (Brent 1973)
        usable = (newton >= lower) & (newton <= upper.clamp_max(1e3 * x)) & ((newton - x).abs() <= 0.5 * before)
        proposal = torch.where(usable, newton, torch.where(upper.isinf(), 2 * x, 0.5 * (lower + upper)))
        before, step = step, (proposal - x).abs()
        x = torch.where(done, x, proposal)
    raise RuntimeError(
        f"no inverse found in {_MAX_STEPS} steps: the function does not reach its target, or is not increasing"
    )
