"""Renewal process with log-normal inter-times: the case in which the history is worth nothing but its last time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tppsd.data.sequences import NO_MARK
from tppsd.models.mixture import log_ndtri
from tppsd.processes.base import Process

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class LogNormalRenewal(Process):
    """Has i.i.d. inter-times with log tau ~ Normal(log_mean, log_std), unmarked; the window starts as if at an event.

    Attributes:
        log_mean: mean of log tau.
        log_std: its standard deviation, > 0.
    """

    log_mean: float
    log_std: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.log_mean):
            raise ValueError(f"log_mean = {self.log_mean} must be finite")
        if not 0 < self.log_std < math.inf:
            raise ValueError(f"log_std = {self.log_std} must be positive and finite")

    def start_state(self, t_start: Tensor) -> Tensor:
        """Return the state at a start: it is the age, the time since the last event."""
        return torch.zeros_like(t_start).unsqueeze(-1)

    def advance(self, state: Tensor, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return the ages after each event: 0, or what has passed without one."""
        times = inter_times.cumsum(-1)
        last_event = torch.cummax(torch.where(marks != NO_MARK, times, -state), -1).values
        return (times - last_event).unsqueeze(-1)

    def log_intensity_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the log of the hazard, density / survival."""
        age = state + elapsed.unsqueeze(-1)
        z = self._standardised(age)
        log_density = -0.5 * z * z - _LOG_SQRT_2PI - math.log(self.log_std) - age.log()
        return torch.where(age > 0, log_density - torch.special.log_ndtr(-z), -torch.inf)

    def compensator_after(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Return the drop of the log-survival; see Process."""
        age = state.squeeze(-1)
        return self._log_survival(age) - self._log_survival(age + elapsed)

    def elapsed_at(self, state: Tensor, compensator: Tensor) -> Tensor:
        """Return the quantile at log S(age) - compensator, taken from the nearer tail, less the age."""
        age = state.squeeze(-1)
        log_survival = self._log_survival(age) - compensator
        lower_tail = torch.special.ndtri(-torch.expm1(log_survival))
        z = torch.where(log_survival > -math.log(2), lower_tail, -log_ndtri(log_survival))
        return (torch.exp(self.log_mean + self.log_std * z) - age).clamp_min(0.0)

    def _log_survival(self, age: Tensor) -> Tensor:
        log_survival: Tensor = torch.special.log_ndtr(-self._standardised(age))
        return log_survival

    def _standardised(self, age: Tensor) -> Tensor:
        return (age.log() - self.log_mean) / self.log_std
