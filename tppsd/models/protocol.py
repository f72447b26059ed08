"""Protocols of what a sampler needs of a model: a cache, a way to extend it, and distributions of the next event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tppsd.data.batch import NO_MARK, EventBatch


class EventTokens(NamedTuple):
    """Holds tokens of a Transformer TPP: starts of windows and events.

    With K = num_marks, ids are 0: start of the window; 1..K: an event of mark id - 1; K+1..2K: start of the window at
    a given first event of mark id - K - 1.

    Fields:
        ids: int64 (batch, length).
        times: float64 (batch, length), since `t_start` in the data's unit.
        inter_times: float64 (batch, length), 0 at a start token.
    """

    ids: Tensor
    times: Tensor
    inter_times: Tensor

    def map(self, change: Callable[..., Tensor], *others: EventTokens) -> EventTokens:
        """Apply `change` to each field and to the same field of `others`."""
        return EventTokens(*map(change, self, *others))

    def cat(self, other: EventTokens) -> EventTokens:
        """Return these tokens with those of `other` behind them."""
        return self.map(lambda *fields: torch.cat(fields, 1), other)

    @classmethod
    def from_batch(cls, batch: EventBatch, num_marks: int) -> EventTokens:
        """Return the start token and every event: (batch, length + 1).

        Raises:
            ValueError: an event has a mark that the model does not know.
        """
        largest = int(torch.cat([batch.marks.flatten(), batch.start_marks]).max())
        if largest >= num_marks:  # unchecked, mark num_marks would read as a start token
            raise ValueError(f"the batch has an event of mark {largest} but the model's marks are 0..{num_marks - 1}")
        ids = torch.cat([start_ids(batch.start_marks, num_marks).unsqueeze(1), batch.marks + 1], 1)
        start = batch.t_start.unsqueeze(1)
        times = torch.cat([start, batch.event_times], 1) - start
        return cls(ids, times, torch.cat([torch.zeros_like(start), batch.inter_times], 1))


def start_ids(start_marks: Tensor, num_marks: int) -> Tensor:
    """Return token ids of window starts: 0 where there is no given first event."""
    return torch.where(start_marks == NO_MARK, 0, start_marks + num_marks + 1)


def check_starts(model: Any, starts: Iterable[float]) -> None:
    """Refuse windows with another start than the model's, where it is one of absolute time (`check_start`)."""
    if (check := getattr(model, "check_start", None)) is not None:
        for start in dict.fromkeys(starts):
            check(start)


class InterTimeDistribution(Protocol):
    """Is the distribution g(tau) of inter-times, batch shape (*batch,)."""

    def log_prob(self, inter_times: Tensor) -> Tensor:
        """Return log g(tau), (*batch,), in float64 arithmetic; -inf where there is no density."""

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return inter-times, float64 (..., *batch), from float64 uniforms (..., *batch, at least 2)."""


class ModelInterTime(InterTimeDistribution, Protocol):
    """Is an inter-time distribution that integrals can be taken over, as a model's must be."""

    def knots(self, levels: Tensor) -> Tensor:
        """Return inter-times of given survival levels, which lie dense where the distribution is narrow.

        Args:
            levels: float64 (n,), of the survival of each component where there are several.

        Returns:
            float64 (n * number of components, *batch).
        """


@runtime_checkable
class DraftDistribution(Protocol):
    """Is a distribution g(tau) f(k | tau) that events are drafted from, batch shape (*batch,)."""

    @property
    def inter_time(self) -> InterTimeDistribution:
        """The distribution of tau alone."""

    def __getitem__(self, index: Any) -> DraftDistribution:
        """Select along the batch dimensions; `[..., :-1]` drops the last position."""

    def unsqueeze(self, dim: int) -> DraftDistribution:
        """Insert a batch dimension at `dim` >= 0, for several draws from each distribution."""

    def mark_log_probs(self, inter_times: Tensor) -> Tensor:
        """Return log f(k | tau) of all marks, (*batch, num_marks)."""

    def log_prob(self, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Return log g(tau) + log f(k | tau), (*batch,)."""

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (inter_times float64, marks int64), (..., *batch), from float64 uniforms (..., *batch, 3)."""


@runtime_checkable
class EventDistribution(DraftDistribution, Protocol):
    """Is a model's distribution of the next event, batch shape (*batch,); a target's must be one."""

    @property
    def inter_time(self) -> ModelInterTime:
        """The distribution of tau alone."""

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of distributions."""

    def __getitem__(self, index: Any) -> EventDistribution:
        """Select along the batch dimensions; `[..., :-1]` drops the last position."""

    def at(self, positions: Tensor) -> EventDistribution:
        """Select in each row, at int64 positions (batch,) or (batch, n) of the last batch dimension."""

    def unsqueeze(self, dim: int) -> EventDistribution:
        """Insert a batch dimension at `dim` >= 0, for several draws from each distribution."""

    @staticmethod
    def cat(distributions: Sequence[Any], dim: int) -> EventDistribution:
        """Join distributions of one model along a batch dimension (>= 0)."""

    def truncated(self, elapsed: Tensor) -> EventDistribution:
        """Return the distribution given that nothing happened for `elapsed` float64 (*batch,) since the last event."""

    def whole(self) -> EventDistribution:
        """Return a distribution that is not truncated."""

    def log_survival(self, inter_times: Tensor) -> Tensor:
        """Return log P(no event for `inter_times`), (*batch,)."""

    def noise_distance(self, inter_times: Tensor, uniforms: Tensor) -> Tensor:
        """Return how far inter-times are from those of `sample(uniforms)`: 0 exactly where they are the same."""


@runtime_checkable
class EventModel(Protocol):
    """Is a model that can be sampled: TransformerTPP, a ground-truth process, a stub of known distributions."""

    @property
    def num_marks(self) -> int:
        """Number of marks."""

    def new_cache(self, batch_size: int, capacity: int) -> Any:
        """Return an empty cache (see tppsd.models.cache.RowCache for its interface)."""

    def extend(self, tokens: EventTokens, cache: Any, parents: tuple[int, ...] | None = None) -> Any:
        """Append q tokens per row at each row's own length, and return contexts of batch shape (batch, q).

        With `parents` (tppsd.models.tree) they are q nodes of a tree, the same one in every row: each follows its
        parent, and the row's length stays until the cache's `keep_path` commits a path of them.
        """

    def distribution(self, context: Any) -> EventDistribution:
        """Return the distribution of the next event after each context, in float64 arithmetic."""


class NoiseStreams(NamedTuple):
    """Says from which streams a model draws the noise of the rows' next events by itself.

    Fields:
        keys: int64 (rows, 2), of the streams (tppsd.sampling.noise.row_keys).
        cursors: int64 (rows,), how many events of its stream each row has used up.
        num: events that are drawn at most.
    """

    keys: Tensor
    cursors: Tensor
    num: int


@runtime_checkable
class DecodingModel(Protocol):
    """Is an EventModel that draws many events per call, as compiled models do."""

    def decode(
        self,
        distribution: Any,
        cache: Any,
        last_times: Tensor,
        uniforms: Tensor | NoiseStreams,
        keeps_distributions: bool,
        ends: Tensor | None = None,
        limits: Tensor | None = None,
        stops: Tensor | None = None,
    ) -> Any:
        """Draw events one after another, each from the distribution after those before it.

        Arguments and result are those of tppsd.backends.cpp.model.CompiledTPP.decode.
        """
