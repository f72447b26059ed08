"""What a sampler needs of a model: a cache, a way to extend it, and laws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tppsd.data.sequences import NO_MARK, EventBatch


class EventTokens(NamedTuple):
    """Tokens of a Transformer TPP. With K = num_marks, ids are 0: start of the window; 1..K: an event of mark id - 1;
    K+1..2K: start of the window at a given first event of mark id - K - 1.

    Fields: ids int64 (batch, length); times float64 (batch, length), since `t_start` in the data's unit;
    inter_times float64 (batch, length), 0 at a start token.
    """

    ids: Tensor
    times: Tensor
    inter_times: Tensor

    def map(self, change: Callable[..., Tensor], *others: EventTokens) -> EventTokens:
        """`change` of each field and of the same field of `others`."""
        return EventTokens(*map(change, self, *others))

    def cat(self, other: EventTokens) -> EventTokens:
        """`other`'s tokens behind these."""
        return self.map(lambda *fields: torch.cat(fields, 1), other)

    @classmethod
    def from_batch(cls, batch: EventBatch, num_marks: int) -> EventTokens:
        """The start token and every event: (batch, length + 1)."""
        largest = int(torch.cat([batch.marks.flatten(), batch.start_marks]).max())
        if largest >= num_marks:  # unchecked, mark num_marks would read as a start token
            raise ValueError(f"the batch has an event of mark {largest} but the model's marks are 0..{num_marks - 1}")
        ids = torch.cat([start_ids(batch.start_marks, num_marks).unsqueeze(1), batch.marks + 1], 1)
        start = batch.t_start.unsqueeze(1)
        times = torch.cat([start, batch.event_times], 1) - start
        return cls(ids, times, torch.cat([torch.zeros_like(start), batch.inter_times], 1))


def start_ids(start_marks: Tensor, num_marks: int) -> Tensor:
    """Token ids of window starts: 0 where there is no given first event."""
    return torch.where(start_marks == NO_MARK, 0, start_marks + num_marks + 1)


def check_starts(model: Any, starts: Iterable[float]) -> None:
    """Refuse windows with another start than the model's, where it is one of absolute time (`check_start`)."""
    if (check := getattr(model, "check_start", None)) is not None:
        for start in dict.fromkeys(starts):
            check(start)


@runtime_checkable
class EventModel(Protocol):
    """A model that can be sampled: TransformerTPP, a ground-truth process, a stub of known law."""

    num_marks: int

    def new_cache(self, batch_size: int, capacity: int) -> Any:
        """An empty cache (see tppsd.models.cache.RowCache for its interface)."""

    def extend(self, tokens: EventTokens, cache: Any, parents: tuple[int, ...] | None = None) -> Any:
        """Append q tokens per row at each row's own length; contexts of batch shape (batch, q).

        With `parents` (tppsd.models.tree) they are q nodes of a tree, the same one in every row: each follows its
        parent, and the row's length stays until the cache's `keep_path` commits a path of them.
        """

    def law(self, context: Any) -> Any:
        """The law of the next event after each context, in float64 arithmetic (see tppsd.models.law.NextEventLaw)."""


@runtime_checkable
class DecodingModel(Protocol):
    """An EventModel that draws many events per call, as compiled models do."""

    def decode(
        self,
        law: Any,
        cache: Any,
        last_times: Tensor,
        uniforms: Tensor,
        keeps_laws: bool,
        ends: Tensor | None = None,
        limits: Tensor | None = None,
        stops: Tensor | None = None,
    ) -> Any:
        """Events one after another, each from the distribution after those before it
        (tppsd.backends.cpp.model.CompiledTPP.decode)."""
