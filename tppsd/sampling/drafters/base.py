"""Drafts, and what a drafter is: it proposes the events that the target verifies.

Drafters differ in speed only; the rules keep the target's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.cache import RowCache
from tppsd.models.protocol import DraftDistribution, EventDistribution, EventTokens
from tppsd.sampling.requests import Requests
from tppsd.sampling.state import BatchState


@dataclass(frozen=True, eq=False)
class Draft:
    """Holds a chain of drafted events of each row and the distributions they were drawn from.

    Attributes:
        inter_times, times: float64 (rows, draft_length), times since t_start.
        marks: int64 (rows, draft_length).
        distributions: distributions of batch shape (rows, draft_length), in float64 arithmetic; None where nothing was
            drafted.
        lengths: int64 (rows,), how many events each row drafted; None = all.
        parents: of the last token and the drafted ones, for a target pass over a tree of them; None = a chain.
        nodes: int64 (rows, draft_length), the numbers of the events in a tree that was drafted; None = a chain.
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    distributions: DraftDistribution | None
    lengths: Tensor | None = None

    parents: tuple[int, ...] | None = None
    nodes: Tensor | None = None

    @classmethod
    def nothing(cls, uniforms: Tensor) -> Draft:
        """Return an empty draft of every row of `uniforms`."""
        empty = uniforms.new_zeros(len(uniforms), 0)
        return cls(empty, empty, empty.long(), None, empty.new_zeros(len(uniforms), dtype=torch.int64))

    @property
    def draft_length(self) -> int:
        """Drafted events of the row with the most."""
        return self.marks.shape[1]

    @property
    def drafted_distributions(self) -> DraftDistribution:
        """The distributions of the drafted events, where there are some."""
        assert self.distributions is not None
        return self.distributions

    @property
    def tokens(self) -> EventTokens:
        """The drafted events as tokens (rows, draft_length)."""
        return EventTokens(self.marks + 1, self.times, self.inter_times)

    @property
    def num_drafted(self) -> Tensor:
        """Events that each row drafted, int64 (rows,)."""
        return self.marks.new_full((len(self.marks),), self.draft_length) if self.lengths is None else self.lengths

    def needed(self, state: BatchState) -> Draft:
        """Return the chain without what comes after the events that end each row.

        That is of no use, and the longest row decides what a pass costs.
        """
        is_wanted = state.want_more(self.times[:, :-1], torch.arange(1, self.draft_length, device=self.marks.device))
        if state.stop_marks is not None:
            is_wanted = (is_wanted & ~state.is_stop(self.marks[:, :-1])).cumprod(1).bool()
        if is_wanted.all():
            return self
        lengths = 1 + is_wanted.sum(1)  # times increase
        num = int(lengths.max())
        inter_times, times, marks = (field[:, :num] for field in (self.inter_times, self.times, self.marks))
        own = lengths if self.lengths is None else torch.minimum(self.lengths, lengths)
        return Draft(inter_times, times, marks, self.drafted_distributions[:, :num], own)

    def keep_in(self, cache: RowCache, num_kept: Tensor, num_cached: int, num_before: int) -> None:
        """Leave in a cache, of what a round has written there, the tokens before the draft and the first `num_kept`.

        Args:
            cache: of target or draft.
            num_kept: int64 (rows,), drafted events that stay.
            num_cached: drafted events, or levels of a tree, that the cache has seen.
            num_before: tokens before the draft in the same pass over a tree: 1 for the target, 0 for the draft.
        """
        cache.roll_back(num_cached - num_kept)


class Committed(NamedTuple):
    """Says what a round has committed: the first `num_accepted` drafted events, then `state.last_token`.

    Fields:
        draft: the chain, or the path through a tree.
        num_accepted: int64 (rows,).
        state: after the commit.
        distributions: the target's distributions (rows, draft_length + 1), after the token before the draft and each
            drafted one.
        seen_marks: int64 (rows, draft_length + 1), the marks of those tokens; -1 at the start of a window without an
            event.
    """

    draft: Draft
    num_accepted: Tensor
    state: BatchState
    distributions: EventDistribution
    seen_marks: Tensor


class Drafter(Protocol):
    """Proposes events with their distributions for every row, and is told what was committed."""

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Begin new requests in `rows`; `state` already holds their newest token."""

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft one event per row and position, or node of a tree, from uniforms (rows, positions or nodes, >= 3)."""

    def commit(self, done: Committed) -> None:
        """Take note of what a round has committed."""

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
