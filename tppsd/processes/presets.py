"""Processes of simple form, and named ones: three parameter sets of the TPP-SD paper's released code, and two more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK
from tppsd.models.mixture import log_ndtri
from tppsd.processes.base import Process
from tppsd.processes.hawkes import Hawkes


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


@dataclass(frozen=True)
class Preset:
    """Holds a process, and how much of it makes a data set.

    Attributes:
        process: the ground truth.
        num_sequences: sequences in all splits together.
        t_start, t_end: window of every sequence.
        fractions: shares of train, validation and test.
    """

    process: Process
    num_sequences: int = 1000
    t_start: float = 0.0
    t_end: float = 100.0
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)


PRESETS: Mapping[str, Preset] = {
    # 5 (1 + sin(2 pi t / 100)): about 500 events
    "poisson": Preset(InhomogeneousPoisson(scale=5.0, base=1.0, frequency=0.02)),
    # about 500 events
    "hawkes": Preset(Hawkes(mu=2.5, alpha=1.0, beta=2.0)),
    # about 270 events
    "multivariate_hawkes": Preset(Hawkes(mu=(0.5, 0.5), alpha=((1.0, 0.5), (0.1, 1.0)), beta=2.0)),
    # about 400 events, more regular than Poisson
    "self_correcting": Preset(SelfCorrecting(mu=4.0, alpha=1.0)),
    # about 400 events of mean inter-time 1/4, burstier than Poisson
    "renewal": Preset(LogNormalRenewal(log_mean=math.log(0.25) - 0.5, log_std=1.0)),
}


def preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        ValueError: there is none; the sentence has all names.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no process preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
