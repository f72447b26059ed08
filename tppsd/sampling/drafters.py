"""Drafters: who proposes the events that the target verifies. They differ in speed only; the rules keep the target's
law."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tppsd.models.protocol import EventModel, EventTokens
from tppsd.sampling.rows import Histories, ModelRows, Request, Rows
from tppsd.sampling.tree import Tree
from tppsd.sampling.unseen import Unseen

_ASK_EVERY = 4  # drafted events: whether any row still needs one
_MOST_UNSEEN = 64  # tokens that a draft model may lag behind in rounds without a draft


class Draft(NamedTuple):
    """Drafted events of each row and the laws they were drawn from: a chain, the nodes of a tree, or a path through a
    tree.

    Fields: inter_times, times (since t_start) float64 (rows, draft_length); marks int64 (rows, draft_length);
    laws of batch shape (rows, draft_length), in float64 arithmetic; lengths int64 (rows,): how many steps each row
    drafted, None = all; nodes int64 (rows, draft_length): of a path through a tree, else None.
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

    def needed(self, state: Rows) -> Draft:
        """A chain without what comes after the events that end each row: it is of no use, and the longest row decides
        what a pass costs."""
        is_wanted = state.want_more(self.times[:, :-1], torch.arange(1, self.marks.shape[1], device=self.marks.device))
        if is_wanted.all():
            return self
        lengths = 1 + is_wanted.sum(1)  # times increase
        num = int(lengths.max())
        inter_times, times, marks = (field[:, :num] for field in (self.inter_times, self.times, self.marks))
        own = lengths if self.lengths is None else torch.minimum(self.lengths, lengths)
        return Draft(inter_times, times, marks, self.laws[:, :num], own)


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
            laws: the target's, batch shape (rows, draft_length + 1), after the token before the draft and each drafted
                one.
            seen_marks: int64 (rows, draft_length + 1), the marks of those tokens; -1 at the start of a window without
                an event.
        """

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row but `rows`."""


class ModelDrafter:
    """A trained draft TPP with a cache of its own; one pass per drafted event, or level of the tree.

    Args:
        stops_at_end: drafts nothing beyond the end of each row.
    """

    def __init__(
        self, model: EventModel, num_rows: int, capacity: int, histories: Histories, tree: Tree | None = None,
        stops_at_end: bool = False,
    ) -> None:  # fmt: skip
        self.stops_at_end = stops_at_end
        self.rows = ModelRows(model, num_rows, capacity, histories)
        self.unseen = Unseen(num_rows, histories.lengths.device)
        self.tree = tree
        self._num_cached = 0  # steps of the draft that the cache holds

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.rows.admit(rows, requests)
        self.unseen.admit(rows, state.pending)

    def propose(self, state: Rows, uniforms: Tensor) -> Draft:
        unseen = self.unseen.begin(state.pending)
        if uniforms.shape[1] == 0:
            return nothing_drafted(uniforms)
        # all at once: a later pass may drop nothing that a rejection could still need
        self.rows.cache.make_room(unseen.ids.shape[1] + uniforms.shape[1] - 1)
        tree = self.tree or Tree.chain(uniforms.shape[1])
        time, law = state.last_times.unsqueeze(1), self._catch_up(unseen)
        if state.is_truncated_start:
            law = law.truncated(state.elapsed.unsqueeze(1))
        if self.tree is None and self.rows.can_follow(law):
            drawn = self.rows.follow(law, state.last_times, uniforms, True)
            self._num_cached = uniforms.shape[1] - 1
            draft = Draft(drawn.inter_times, drawn.times, drawn.marks, self.rows.laws_of(drawn, law))
            return draft.needed(state) if self.stops_at_end else draft
        steps: list[tuple[Tensor, Tensor, Tensor, Any]] = []
        newest: EventTokens | None = None
        for depth, num_children in enumerate(tree.candidates):
            if newest is not None:
                law = self.rows.extend(newest, None if self.tree is None else tree.parents[tree.level(depth - 1)])
            if num_children > 1:
                parents = tree.repeated(depth, time.device)
                law, time = law[:, parents], time[:, parents]
            tau, mark = law.sample(uniforms[:, tree.level(depth), :3])
            time = time + tau
            newest = EventTokens(mark + 1, time, tau)
            steps.append((tau, time, mark, law))
            if (
                self.stops_at_end
                and depth % _ASK_EVERY == _ASK_EVERY - 1
                and not state.want_more(time, depth + 1).any()
            ):
                break
        self._num_cached = len(steps) - 1
        inter_times, times, marks, laws = zip(*steps, strict=True)
        draft = Draft(torch.cat(inter_times, 1), torch.cat(times, 1), torch.cat(marks, 1), type(laws[0]).cat(laws, 1))
        return draft.needed(state) if self.stops_at_end else draft

    def _catch_up(self, unseen: EventTokens) -> Any:
        """Put the unseen tokens into the cache; the law (rows, 1) after the newest."""
        law = self.rows.extend(unseen).at((self.unseen.num - 1).unsqueeze(1))
        self.rows.cache.roll_back(
            unseen.ids.shape[1] - self.unseen.num
        )  # rows with fewer unseen tokens wrote dead entries
        return law

    def commit(self, draft: Draft, num_accepted: Tensor, state: Rows, laws: Any, seen_marks: Tensor) -> None:
        if draft.marks.shape[1] == 0:
            self._add_unseen(state.pending)
            return
        # the cache holds all drafted events but the last: after a fully accepted round it lacks that one and the bonus
        # event
        cache = self.rows.cache
        num_kept = num_accepted.clamp_max(self._num_cached)
        if draft.nodes is None:
            cache.roll_back(self._num_cached - num_kept)
        else:
            cache.keep_path(draft.nodes[:, :-1], num_kept)
        self.unseen.replace(draft.tokens.map(lambda field: field[:, -1:]), num_accepted - num_kept, state.pending)

    def _add_unseen(self, newest: EventTokens) -> None:
        """Nothing was drafted."""
        if (tokens := self.unseen.tokens) is not None and tokens.ids.shape[1] >= _MOST_UNSEEN:
            self._catch_up(tokens)
            self.unseen.clear()
        self.unseen.add(newest)

    def keep_rows(self, rows: Tensor) -> None:
        self.rows.keep_rows(rows)
        self.unseen.keep_rows(rows)


def nothing_drafted(uniforms: Tensor) -> Draft:
    """An empty draft of every row of `uniforms`."""
    empty = uniforms.new_zeros(len(uniforms), 0)
    return Draft(empty, empty, empty.long(), None, empty.new_zeros(len(uniforms), dtype=torch.int64))
