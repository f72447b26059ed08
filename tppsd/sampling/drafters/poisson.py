"""The simplest draft: a Poisson process with the rate and the mark frequencies of the training split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tppsd.data.statistics import DataStatistics
from tppsd.models.distribution import pick_mark, sample_mark
from tppsd.sampling.drafters.base import Committed, Draft
from tppsd.sampling.requests import Requests
from tppsd.sampling.state import BatchState


@dataclass(frozen=True)
class PoissonDistribution:
    """Is the distribution tau - elapsed ~ Exp(rate) and k ~ Categorical(probs), whatever the history.

    It is a tppsd.models.protocol.DraftDistribution.

    Attributes:
        elapsed: float64 (*batch,), 0 where nothing is known.
        log_rate: of events per unit of time.
        log_frequencies: float64 (num_marks,), log-probabilities of the marks.
    """

    elapsed: Tensor
    log_rate: float
    log_frequencies: Tensor

    @property
    def inter_time(self) -> PoissonInterTime:
        """The distribution of tau alone."""
        return PoissonInterTime(self.elapsed, self.log_rate)

    def __getitem__(self, index: Any) -> PoissonDistribution:
        """Select along the batch dimensions."""
        return replace(self, elapsed=self.elapsed[index])

    def unsqueeze(self, dim: int) -> PoissonDistribution:
        """Insert a batch dimension at `dim` >= 0."""
        return replace(self, elapsed=self.elapsed.unsqueeze(dim))

    def mark_log_probs(self, inter_times: Tensor) -> Tensor:
        """Return log-probabilities of all marks, (*batch, num_marks)."""
        return self.log_frequencies.expand(*inter_times.shape, -1)

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return log g(tau) + log f(k), (*batch,)."""
        return self.inter_time.log_prob(inter_times) + pick_mark(self.mark_log_probs(inter_times), marks)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inter_times float64, marks int64) from float64 uniforms (..., *batch, 3)."""
        inter_times = self.inter_time.sample(uniforms)
        return inter_times, sample_mark(self.mark_log_probs(inter_times), uniforms[..., 2])


@dataclass(frozen=True)
class PoissonInterTime:
    """Is the distribution of tau in a PoissonDistribution."""

    elapsed: Tensor
    log_rate: float

    def log_prob(self, inter_times: Tensor) -> Tensor:
        """Return log g(tau), (*batch,); -inf at tau <= elapsed."""
        log_density = self.log_rate - math.exp(self.log_rate) * (inter_times - self.elapsed)
        return torch.where(inter_times > self.elapsed, log_density, -torch.inf)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return inter-times from float64 uniforms (..., *batch, at least 2)."""
        inter_times = self.elapsed - uniforms[..., 1].log() * math.exp(-self.log_rate)
        return torch.maximum(inter_times, torch.nextafter(self.elapsed, self.elapsed + 1))


def training_rate(statistics: DataStatistics | None) -> float:
    """Return events per unit of time in a target's training split.

    Raises:
        ValueError: it carries no statistics of one.
    """
    if statistics is None or statistics.rate is None:
        raise ValueError(
            "draft = 'poisson' needs a target that carries the statistics of its training split; this one has none"
        )
    return statistics.rate


class PoissonDrafter:
    """Drafts a chain from a Poisson process; add-one smoothing gives every mark a chance.

    Args:
        statistics: of the training split.
        device: where the sequences are.

    Raises:
        ValueError: the model carries no statistics.
    """

    def __init__(self, statistics: DataStatistics | None, device: torch.device) -> None:
        self.log_rate = math.log(training_rate(statistics))
        assert statistics is not None
        counts = torch.tensor(statistics.mark_counts, dtype=torch.float64, device=device) + 1
        self.log_frequencies = (counts / counts.sum()).log()

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Do nothing: the process knows no history."""

    def commit(self, done: Committed) -> None:
        """Do nothing."""

    def compact(self, rows: Tensor) -> None:
        """Do nothing."""

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft every event from the same process, the first given the elapsed time."""
        if uniforms.shape[1] == 0:
            return Draft.nothing(uniforms)
        inter_times, marks, distributions = self.draw(state, uniforms, first=1)
        times = state.last_times.unsqueeze(1) + inter_times.cumsum(1)
        return Draft(inter_times, times, marks, distributions)

    def draw(self, state: BatchState, uniforms: Tensor, first: int) -> tuple[Tensor, Tensor, PoissonDistribution]:
        """Draw events from uniforms (rows, n, >= 3), of which the `first` ones follow the elapsed time.

        Returns:
            Inter-times, marks and distributions.
        """
        elapsed = torch.zeros_like(uniforms[..., 0])
        elapsed[:, :first] = state.elapsed.unsqueeze(1)
        distributions = PoissonDistribution(elapsed, self.log_rate, self.log_frequencies)
        return *distributions.sample(uniforms), distributions
