"""Self-correcting process: events grow more likely with time and less so with every event."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tppsd.data.sequences import NO_MARK
from tppsd.processes.base import Process


@dataclass(frozen=True)
class SelfCorrecting(Process):
    """Has lambda*(t) = exp(mu (t - t_start) - alpha N(t)), unmarked, N(t) = events before t on the window.

    Source: Isham and Westcott, 1979.

    Attributes:
        mu: growth rate > 0; the long-run rate is mu / alpha.
        alpha: drop of the log-intensity at an event, > 0.
    """

    mu: float
    alpha: float

    def __post_init__(self) -> None:
        if not (0 < self.mu < math.inf and 0 < self.alpha < math.inf):
            raise ValueError(f"mu = {self.mu} and alpha = {self.alpha} must be positive and finite")

    def start_state(self, t_start: Tensor) -> Tensor:
        """Return the state at a start: it is the log-intensity."""
        return torch.zeros_like(t_start).unsqueeze(-1)

    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return the log-intensities after each event; see Process."""
        drops = self.alpha * (marks != NO_MARK)
        return (state + (self.mu * inter_times - drops).cumsum(-1)).unsqueeze(-1)

    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the log-intensity; see Process."""
        return state + self.mu * elapsed.unsqueeze(-1)

    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the integrated intensity; see Process."""
        return state.squeeze(-1).exp() * torch.expm1(self.mu * elapsed) / self.mu

    def elapsed_at(self, state: Tensor, compensator: Tensor) -> Tensor:
        """Return log(1 + mu compensator / lambda) / mu, without overflow at a tiny intensity."""
        log_growth = math.log(self.mu) + compensator.log() - state.squeeze(-1)
        return (log_growth.clamp_min(0.0) + torch.log1p(torch.exp(-log_growth.abs()))) / self.mu
