"""Ground-truth processes as EventModels: distributions of the next event from a cached state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK
from tppsd.models.cache import RowCache, extend_states
from tppsd.models.distribution import pick_mark, sample_mark
from tppsd.models.protocol import EventTokens
from tppsd.processes.base import Process


@dataclass(frozen=True)
class ProcessDistribution:
    """Is the distribution of a process's next event given tau > elapsed: tau, then k ~ lambda*_k / lambda* at tau.

    log S(tau) is minus the process's compensator. It is a tppsd.models.protocol.EventDistribution.

    Attributes:
        process: the process.
        states: float64 (*batch, state_size), `elapsed` after the last event.
        elapsed: float64 (*batch,); 0 truncates nothing.
    """

    process: Process
    states: Tensor
    elapsed: Tensor

    @property
    def inter_time(self) -> ProcessInterTime:
        """The distribution of tau alone."""
        return ProcessInterTime(self)

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of distributions."""
        return self.elapsed.shape

    def __getitem__(self, index: Any) -> ProcessDistribution:
        """Select along the batch dimensions; `distribution[..., :-1]` drops the last position."""
        index = index if isinstance(index, tuple) else (index,)
        return ProcessDistribution(self.process, self.states[(*index, slice(None))], self.elapsed[index])

    def at(self, positions: Tensor) -> ProcessDistribution:
        """Select `positions` of the last batch dimension in each row.

        Positions int64 (batch,) give distributions (batch,), positions (batch, n) give (batch, n).
        """
        rows = torch.arange(self.batch_shape[0]).view(-1, *[1] * (positions.dim() - 1))
        return self[rows, positions]

    def unsqueeze(self, dim: int) -> ProcessDistribution:
        """Insert a batch dimension at `dim` >= 0, for several draws from each distribution."""
        return self[(*[slice(None)] * dim, None)]

    @staticmethod
    def cat(distributions: Sequence[ProcessDistribution], dim: int) -> ProcessDistribution:
        """Join distributions of one process along a batch dimension (>= 0)."""
        states, elapsed = (torch.cat([getattr(d, name) for d in distributions], dim) for name in ("states", "elapsed"))
        return ProcessDistribution(distributions[0].process, states, elapsed)

    def double(self) -> ProcessDistribution:
        """Return itself: a process computes in float64."""
        return self

    def truncated(self, elapsed: Tensor) -> ProcessDistribution:
        """Return the distribution given that nothing happened for `elapsed` float64 (*batch,) since the last event."""
        further = (elapsed - self.elapsed).clamp_min(0.0).unsqueeze(-1)
        nothing = torch.full_like(further, NO_MARK, dtype=torch.int64)
        states = self.process.advance(self.states, further, nothing).squeeze(-2)
        return ProcessDistribution(self.process, states, torch.maximum(elapsed, self.elapsed))

    def whole(self) -> ProcessDistribution:
        """Return a distribution that is not truncated.

        It is that of the time left, tau - elapsed, from the state reached at `elapsed`.
        """
        return ProcessDistribution(self.process, self.states, torch.zeros_like(self.elapsed))

    def log_intensity(self, inter_times: Tensor) -> Tensor:
        """Return log lambda*_k at `inter_times` (..., *batch) after the last event: (..., *batch, num_marks)."""
        return self.process.log_intensity_after(self.states, (inter_times - self.elapsed).clamp_min(0.0))

    def log_survival(self, inter_times: Tensor) -> Tensor:
        """Return log P(no event for `inter_times`), (..., *batch); 0 up to `elapsed`."""
        return -self.process.compensator_after(self.states, (inter_times - self.elapsed).clamp_min(0.0))

    def mark_log_probs(self, inter_times: Tensor) -> Tensor:
        """Return log f(k | tau) = log lambda*_k - log lambda*, (..., *batch, num_marks); -inf at intensity 0."""
        log_intensity = self.log_intensity(inter_times)
        log_total = log_intensity.logsumexp(-1, keepdim=True)
        return log_intensity - log_total.clamp_min(torch.finfo(torch.float64).min)

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return log g(tau) + log f(k | tau), (..., *batch)."""
        return self.inter_time.log_prob(inter_times) + pick_mark(self.mark_log_probs(inter_times), marks)

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        """Return |S(tau) - uniforms[..., 0]|, float64 (..., *batch): 0 for what `sample(uniforms)` gives."""
        distance = (self.log_survival(inter_times).exp() - uniforms[..., 0]).abs()
        return torch.where(inter_times == self.inter_time.sample(uniforms), 0.0, distance)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inter_times float64, marks int64) from float64 uniforms (..., *batch, 3).

        Number 0 of the last dimension gives tau, number 2 the mark at tau.
        """
        inter_times = self.inter_time.sample(uniforms)
        return inter_times, sample_mark(self.mark_log_probs(inter_times), uniforms[..., 2])


class ProcessInterTime(NamedTuple):
    """Is the distribution of the inter-time alone in a ProcessDistribution."""

    event: ProcessDistribution

    @property
    def elapsed(self) -> Tensor:
        """The time since the last event that is known to be without an event, float64 (*batch,)."""
        return self.event.elapsed

    def log_prob(self, inter_times: Tensor) -> Tensor:
        """Return log g(tau) = log lambda*(tau) + log S(tau), (..., *batch); -inf before `elapsed`."""
        log_density = self.event.log_intensity(inter_times).logsumexp(-1) + self.event.log_survival(inter_times)
        return torch.where(inter_times >= self.event.elapsed, log_density, -torch.inf)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return tau > elapsed with S(tau) = uniforms[..., 0], float64 (..., *batch).

        Args:
            uniforms: float64 (..., *batch, 1 or more).
        """
        process, states, elapsed = self.event.process, self.event.states, self.event.elapsed
        inter_times = elapsed + process.elapsed_at(states, -uniforms[..., 0].log())
        return torch.maximum(inter_times, torch.nextafter(elapsed, elapsed + 1))

    def knots(self, levels: Tensor) -> Tensor:
        """Return inter-times where the survival, given tau > elapsed, is one of `levels` (n,): (n, *batch)."""
        elapsed = self.elapsed
        return self.sample(levels.view(-1, *[1] * (elapsed.dim() + 1)).expand(-1, *elapsed.shape, -1))


class ProcessModel:
    """Makes a process an EventModel (tppsd.models.protocol). The cache holds the state after every token.

    Args:
        process: the process.
        t_start: start of the window, for a process whose intensity depends on absolute time (tokens count from it).
            Windows with another start are refused.
    """

    def __init__(self, process: Process, t_start: float = 0.0) -> None:
        self.process = process
        self.num_marks = process.num_marks
        self.t_start = float(t_start)

    def check_start(self, t_start: float) -> None:
        """Refuse a window whose start is not like the model's own.

        Raises:
            ValueError: the process begins otherwise at `t_start` than at the model's own.
        """
        own, other = (self.process.start_state(torch.tensor(t, dtype=torch.float64)) for t in (self.t_start, t_start))
        if not torch.equal(own, other):
            raise ValueError(
                f"a window starts at {t_start}, but the process depends on absolute time and its model is of windows "
                f"that start at {self.t_start}; give ProcessModel(process, t_start={t_start})"
            )

    def new_cache(self, batch_size: int, capacity: int) -> RowCache:
        """Return an empty cache of states."""
        return RowCache([torch.zeros(batch_size, capacity, self.process.state_size, dtype=torch.float64)])

    def extend(self, tokens: EventTokens, cache: RowCache, parents: tuple[int, ...] | None = None) -> Tensor:
        """Append q tokens per row and return the states after them, float64 (batch, q, state_size)."""
        start = self.process.start_state(torch.full(cache.lengths.shape, self.t_start, dtype=torch.float64))
        return extend_states(cache, tokens, parents, start, self._advance)

    def distribution(self, context: Tensor) -> ProcessDistribution:
        """Return the distribution of the next event after each context (*batch, state_size)."""
        return ProcessDistribution(self.process, context, context.new_zeros(context.shape[:-1]))

    def _advance(self, tokens: EventTokens, states: Tensor) -> Tensor:
        marks = torch.where(tokens.ids == 0, NO_MARK, (tokens.ids - 1) % self.num_marks)
        return self.process.advance(states, tokens.inter_times, marks)
