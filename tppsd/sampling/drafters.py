"""Drafters: who proposes the events that the target verifies. They differ in speed only; the rules keep the target's law."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.protocol import EventModel, EventTokens
from tppsd.sampling.rows import Histories, ModelRows, Request, Rows
from tppsd.sampling.tree import Tree


class Draft(NamedTuple):
    """Drafted events of each row and the laws they were drawn from: a chain, the nodes of a tree, or a path through a tree.

    Fields: inter_times, times (since t_start) float64 (rows, draft_length); marks int64 (rows, draft_length);
    laws of batch shape (rows, draft_length), in float64 arithmetic; lengths int64 (rows,): how many steps each row drafted,
    None = all; nodes int64 (rows, draft_length): of a path through a tree, else None.
    """

    inter_times: Tensor
    times: Tensor
    marks: Tensor
    laws: Any
    lengths: Tensor | None = None
    nodes: Tensor | None = None

    @property
    def tokens(self) -> EventTokens:
        return EventTokens(self.marks + 1, self.times, self.inter_times)

    @property
    def num_drafted(self) -> Tensor:
        """int64 (rows,)."""
        return self.marks.new_full(self.marks.shape[:1], self.marks.shape[1]) if self.lengths is None else self.lengths

    def along(self, nodes: Tensor) -> Draft:
        """The path through `nodes` int64 (rows, depth), one per level."""
        rows = torch.arange(len(nodes), device=nodes.device).unsqueeze(1)
        inter_times, times, marks = (field.gather(1, nodes) for field in (self.inter_times, self.times, self.marks))
        return Draft(inter_times, times, marks, self.laws[rows, nodes], self.lengths, nodes)


class Drafter(Protocol):
    """Proposes events with their laws for every row, and is told what was committed."""

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        """New requests start in `rows`; `state` already holds their newest token."""

    def propose(self, state: Rows, uniforms: Tensor) -> Draft:
        """One event per row and position, or node of the tree, from uniforms (rows, positions or nodes, >= 3)."""

    def commit(self, draft: Draft, num_accepted: Tensor, state: Rows, laws: Any, seen_marks: Tensor) -> None:
        """The first `num_accepted` (rows,) drafted events and then `state.pending` were committed.

        Args:
            draft: the chain, or the path through the tree.
            laws: the target's, batch shape (rows, draft_length + 1), after the token before the draft and each drafted one.
            seen_marks: int64 (rows, draft_length + 1), the marks of those tokens; -1 at the start of a window without an event.
        """

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row but `rows`."""


class ModelDrafter:
    """A trained draft TPP with a cache of its own; one pass per drafted event, or level of the tree."""

    def __init__(self, model: EventModel, num_rows: int, capacity: int, histories: Histories, tree: Tree | None = None) -> None:
        self.rows = ModelRows(model, num_rows, capacity, histories)
        self.tree = tree
        self._lag: EventTokens | None = None  # tokens (rows, 2) that the draft has not seen ...
        self._num_lagging = torch.ones_like(self.rows.cache.lengths)  # ... and how many of them are real, 1 or 2

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.rows.admit(rows, requests)
        if self._lag is not None:
            self._num_lagging[rows] = 1
            for lag, newest in zip(self._lag, state.pending, strict=True):
                lag[rows, 0] = newest[rows, 0]

    def propose(self, state: Rows, uniforms: Tensor) -> Draft:
        tree = self.tree or Tree.chain(uniforms.shape[1])
        law, tokens, time = self._first_law(state), state.pending, state.last_times.unsqueeze(1)
        steps: list[tuple[Tensor, Tensor, Tensor, Any]] = []
        for depth, num_children in enumerate(tree.candidates):
            if depth > 0:
                law = self.rows.extend(tokens, None if self.tree is None else tree.parents[tree.level(depth - 1)])
            if num_children > 1:
                parents = tree.repeated(depth, time.device)
                law, time = law[:, parents], time[:, parents]
            tau, mark = law.sample(uniforms[:, tree.level(depth), :3])
            time = time + tau
            tokens = EventTokens(mark + 1, time, tau)
            steps.append((tau, time, mark, law))
        inter_times, times, marks, laws = zip(*steps, strict=True)
        return Draft(torch.cat(inter_times, 1), torch.cat(times, 1), torch.cat(marks, 1), type(laws[0]).cat(laws, 1))

    def _first_law(self, state: Rows) -> Any:
        """After every row's newest event, (rows, 1)."""
        if self._lag is None:
            law = self.rows.extend(state.pending)
        else:
            num_seen = self.rows.cache.lengths + self._num_lagging
            law = self.rows.extend(self._lag).at((self._num_lagging - 1).unsqueeze(1))
            self.rows.cache.lengths = num_seen  # a row that lagged by one token only wrote a dead entry past its length
        return law.truncated(state.elapsed.unsqueeze(1)) if state.is_truncated_start else law

    def commit(self, draft: Draft, num_accepted: Tensor, state: Rows, laws: Any, seen_marks: Tensor) -> None:
        draft_length = draft.marks.shape[1]
        all_accepted = num_accepted == draft_length
        # the cache holds all drafted events but the last: after a fully accepted round it lacks that one and the bonus event
        cache = self.rows.cache
        num_kept = num_accepted.clamp_max(draft_length - 1)
        if draft.nodes is None:
            cache.lengths = cache.lengths - (draft_length - 1) + num_kept
        else:
            cache.keep_path(draft.nodes[:, :-1], num_kept)
        self._num_lagging = 1 + all_accepted.long()
        last = EventTokens(*(field[:, -1:] for field in draft.tokens))
        self._lag = EventTokens(
            *(
                torch.cat([torch.where(all_accepted.unsqueeze(1), old, new), new], 1)
                for old, new in zip(last, state.pending, strict=True)
            )
        )

    def keep_rows(self, rows: Tensor) -> None:
        self.rows.keep_rows(rows)
        self._num_lagging = self._num_lagging[rows]
        if self._lag is not None:
            self._lag = EventTokens(*(field[rows] for field in self._lag))
