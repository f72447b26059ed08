"""Inhomogeneous Poisson process with a sinusoidal rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tppsd.processes.base import Process


@dataclass(frozen=True)
class InhomogeneousPoisson(Process):
    """Has lambda(t) = scale (base + sin(frequency pi t)), unmarked, t absolute.

    Attributes:
        scale: A > 0, events per unit of time.
        base: b >= 1, so that the rate is never negative.
        frequency: omega, half-turns per unit of time.
    """

    scale: float
    base: float
    frequency: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale = {self.scale} must be positive and finite")
        if not 1 <= self.base < math.inf:
            raise ValueError(
                f"base = {self.base} must be at least 1, below which the rate is negative at times, and finite"
            )
        if not math.isfinite(self.frequency):
            raise ValueError(f"frequency = {self.frequency} must be finite")

    def start_state(self, t_start: Tensor) -> Tensor:
        """Return the state at a start: it is the absolute time."""
        return t_start.unsqueeze(-1)

    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return the absolute times of the events."""
        return (state + inter_times.cumsum(-1)).unsqueeze(-1)

    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the log-rate; see Process."""
        times = state + elapsed.unsqueeze(-1)
        return (self.scale * (self.base + torch.sin(self.frequency * math.pi * times))).log()

    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return A (b elapsed + 2 sin(middle) sin(half) / (omega pi)).

        It is the difference of two cosines, without its cancellation.
        """
        half = 0.5 * self.frequency * math.pi * elapsed
        middle = self.frequency * math.pi * state.squeeze(-1) + half
        return self.scale * elapsed * (self.base + torch.sin(middle) * torch.sinc(half / math.pi))
