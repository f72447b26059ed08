"""Drafting without a draft model: the target's own distributions.

They are recent ones (after Bilos et al., arXiv 2510.20031), or those of the round before (exact speculative Jacobi
decoding, after Teng et al., arXiv 2410.01699).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Committed, Draft
from tppsd.sampling.requests import Requests
from tppsd.sampling.state import BatchState

if TYPE_CHECKING:
    from tppsd.sampling.autoregressive import ModelRunner


class RecentDistributions:
    """Holds per row the target's distribution after the latest event of each mark, and its latest of all.

    Args:
        num_rows: rows.
        num_marks: marks of the target.
        device: where the rows are.

    Attributes:
        table: distributions (rows, num_marks + 1), by mark and then the latest; None before the first.
        is_known: bool (rows, num_marks + 1), what of the table is of use.
    """

    def __init__(self, num_rows: int, num_marks: int, device: torch.device) -> None:
        self.table: EventDistribution | None = None
        self.is_known = torch.zeros(num_rows, num_marks + 1, dtype=torch.bool, device=device)
        self.slots = torch.arange(num_marks + 1, device=device)

    def update(self, distributions: EventDistribution, marks: Tensor, num: Tensor) -> None:
        """Take in the first `num` (rows,) of the distributions (rows, n).

        They follow events of `marks` int64 (rows, n); -1 is none.
        """
        positions = torch.arange(marks.shape[1], device=marks.device)
        follows = (marks.unsqueeze(2) == self.slots[:-1]) & (positions < num.unsqueeze(1)).unsqueeze(
            2
        )  # (rows, n, marks)
        newest = torch.where(follows, positions.unsqueeze(1), -1).amax(1)
        source = torch.cat([newest, num.unsqueeze(1) - 1], 1)
        distributions, table = distributions.whole(), self.table
        if table is None:
            self.table = distributions.at(source.clamp_min(0))
        elif isinstance(table, NextEventDistribution) and isinstance(distributions, NextEventDistribution):
            # only what changes is written: a table of many marks is large
            rows, slots = (source >= 0).nonzero(as_tuple=True)
            parameters = table.parameters
            parameters[rows, slots] = distributions.parameters[rows, source[rows, slots]].to(parameters.dtype)
            self.table = table.of(parameters)
        else:
            kept = marks.shape[1] + self.slots
            self.table = type(distributions).cat([distributions, table], 1).at(torch.where(source >= 0, source, kept))
        self.is_known = self.is_known | (source >= 0)

    def take_over(self, other: RecentDistributions, source: Tensor, rows: Tensor) -> None:
        """Begin `rows` int64 (n,) with what rows `source` (n,) of `other` know."""
        self.is_known[rows] = other.is_known[source]
        if other.table is None:
            return
        if self.table is None:
            self.table = other.table[
                torch.zeros_like(self.is_known[:, 0], dtype=torch.int64).index_copy(0, rows, source)
            ]
        else:
            where = torch.arange(len(self.is_known), device=rows.device).index_copy(
                0, rows, len(self.is_known) + source
            )
            self.table = type(self.table).cat([self.table, other.table], 0)[where]

    def after_marks(self) -> EventDistribution:
        """Return distributions (rows, num_marks) to draft from after an event of each mark, as `after`."""
        return self.after(self.slots[:-1].expand(len(self.is_known), -1))

    def after(self, marks: Tensor) -> EventDistribution:
        """Return distributions (rows, n) to draft from after events of `marks` int64 (rows, n).

        It is the latest of all where none has followed that mark yet.
        """
        assert self.table is not None
        return self.table.at(torch.where(self.is_known.gather(1, marks), marks, len(self.slots) - 1))

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.is_known = self.is_known[rows]
        if self.table is not None:
            self.table = self.table[rows]


# Draws of a round beyond which events are drawn one after another: so many take as long as the calls of one of them.
# A draw of a mark takes about as long as 20 marks' probabilities.
_MOST_DRAWS, _MARKS_PER_DRAW = 2500, 20


class Again(NamedTuple):
    """Holds what each event of a draft is if the mark before it is the one that is expected.

    Fields:
        marks_before: int64 (rows, n), the marks that are expected; -1 = nothing is known of that event.
        inter_times: float64 (rows, n).
        marks: int64 (rows, n).
    """

    marks_before: Tensor
    inter_times: Tensor
    marks: Tensor

    def replace(self, where: Tensor, inter_times: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
        """Return inter-times and marks, those of this draft in place of others `where` bool (rows, n) says so."""
        return torch.where(where, self.inter_times, inter_times), torch.where(where, self.marks, marks)


class SelfDrafter:
    """Drafts each event from the target's distribution after the latest event with the same mark as the one before it.

    Where marks alternate, the distribution after the previous event is a poor guess and the one after the last event of
    the same mark a good one. No distribution for that mark yet: the latest one. None at all, or a first event given
    elapsed time: nothing is drafted. Drafting costs one vectorised draw and no model pass.

    Args:
        target: runner of the target, which knows the distributions after the events of a history.
        num_rows: running sequences.
        stops_at_end: drafts nothing beyond the end of each row.
    """

    def __init__(self, target: ModelRunner, num_rows: int, stops_at_end: bool = False) -> None:
        self.target, self.stops_at_end = target, stops_at_end
        self.num_marks = target.model.num_marks
        self.recent = RecentDistributions(num_rows, self.num_marks, target.histories.lengths.device)

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Begin with the distributions after the events of the histories."""
        self.recent.take_over(self.target.recent_distributions(), self.target.encoded(requests), rows)

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft a chain of events."""
        if self.recent.table is None or uniforms.shape[1] == 0:
            return Draft.nothing(uniforms)
        before, inter_times, marks = self.follow(state, uniforms)
        times = state.last_times.unsqueeze(1) + inter_times.cumsum(1)
        lengths = self.lengths(uniforms.shape[1], state)
        draft = Draft(inter_times, times, marks, self.recent.after(before), lengths)
        return draft.needed(state) if self.stops_at_end else draft

    def follow(self, state: BatchState, uniforms: Tensor, again: Again | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a chain of events from uniforms (rows, n, >= 3), each from the distribution after the mark before it.

        With few marks and rows, what every distribution would draw at every position is drawn at once; that are K draws
        per event, and K probabilities each. Else one event is drawn after another.

        Args:
            state: what the chain continues.
            uniforms: the noise.
            again: events that are taken from elsewhere.

        Returns:
            The mark before each event, its inter-time and its mark, (rows, n).
        """
        num_marks, first = self.num_marks, state.last_marks(self.num_marks).clamp_min(0)
        if len(first) * num_marks * (num_marks + _MARKS_PER_DRAW) > _MOST_DRAWS:
            return one_by_one(self.recent, first, uniforms, again)
        every_tau, every_mark = self.draw(state, uniforms)[2:]
        if again is not None:
            fits = again.marks_before.unsqueeze(2) == self.recent.slots[:-1]
            every_mark = torch.where(fits, again.marks.unsqueeze(2), every_mark)
        before, marks = follow_marks(every_mark, first)
        inter_times = every_tau.gather(2, before.unsqueeze(2)).squeeze(2)
        if again is not None:
            inter_times, marks = again.replace(again.marks_before == before, inter_times, marks)
        return before, inter_times, marks

    def draw(self, state: BatchState, uniforms: Tensor) -> tuple[EventDistribution, Tensor, Tensor, Tensor]:
        """Draw what each recent distribution gives at every position, from uniforms (rows, n, >= 3).

        Returns:
            Distributions (rows, num_marks) by the mark before, mark of the newest event (rows,), and inter-times and
                marks (rows, n, num_marks).
        """
        distributions = self.recent.after_marks()
        every_tau, every_mark = distributions.unsqueeze(1).sample(uniforms.unsqueeze(2)[..., :3])
        return distributions, state.last_marks(self.num_marks).clamp_min(0), every_tau, every_mark

    def lengths(self, depth: int, state: BatchState) -> Tensor:
        """Return the steps that each row drafts, int64 (rows,)."""
        drafts = self.recent.is_known[:, -1]
        return depth * (drafts & (state.elapsed == 0) if state.is_truncated_start else drafts).long()

    def commit(self, done: Committed) -> None:
        """Take in the target's distributions after the committed events."""
        self.recent.update(done.distributions, done.seen_marks, done.num_accepted + 1)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.recent.compact(rows)


def one_by_one(
    recent: RecentDistributions, mark: Tensor, uniforms: Tensor, again: Again | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw events one after another, the first after an event of `mark` int64 (rows,), as SelfDrafter.follow."""
    drawn = []
    for j in range(uniforms.shape[1]):
        before = mark.unsqueeze(1)
        inter_time, own = recent.after(before).sample(uniforms[:, j : j + 1, :3])
        if again is not None:
            here = Again(*(field[:, j : j + 1] for field in again))
            inter_time, own = here.replace(here.marks_before == before, inter_time, own)
        drawn.append((before, inter_time, own))
        mark = own.squeeze(1)
    before, inter_times, marks = (torch.cat(fields, 1) for fields in zip(*drawn, strict=True))
    return before, inter_times, marks


def follow_marks(every_mark: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mark before and the mark of each drafted event, int64 (rows, n).

    Event j has mark every_mark[:, j, mark before it]. The maps are composed in log2(n) steps (Hillis and Steele, CACM
    29, 1986).

    Args:
        every_mark: int64 (rows, n, num_marks).
        first: int64 (rows,), the mark before the first.
    """
    composed, step = every_mark, 1
    while step < every_mark.shape[1]:
        composed = torch.cat([composed[:, :step], composed[:, step:].gather(2, composed[:, :-step])], 1)
        step *= 2
    marks = composed.gather(2, first.view(-1, 1, 1).expand(-1, composed.shape[1], 1)).squeeze(2)
    return torch.cat([first.unsqueeze(1), marks[:, :-1]], 1), marks


class JacobiDrafter(SelfDrafter):
    """Drafts each event from the distribution that the target gave it in the round before, with the noise it had then.

    The pass that verifies a draft also gives the distributions of the events after the first rejection, in the light of
    all drafted events before them. The next round drafts those events again from these. As their noise stays with them,
    they hardly change from round to round, and neither do their distributions: where fixed-point iteration (Song et
    al., ICML 2021) waits until an event no longer changes, this needs only distributions that overlap, and it is exact.

    Why it is exact: given everything up to and including the noise of the event before, the distribution that an event
    is drafted from is fixed, and its own noise is fresh, because events after a rejection have decided nothing. (Under
    block verification they have; there this drafter has the distribution of the round before, and other noise.)

    It drafts on beyond the end of a window: after a rejection before it, the distributions of those events are of use.

    A distribution that followed an event of another mark than the one now drafted, and events that no round has seen
    yet, are drafted as in `SelfDrafter`.
    """

    def __init__(self, target: ModelRunner, num_rows: int) -> None:
        super().__init__(target, num_rows)
        self._distributions: EventDistribution | None = (
            None  # (rows, n + 1) of the round before, after the newest event and each of n drafted ones
        )
        self._marks_before: Tensor | None = None  # int64 (rows, n + 1): the marks that these distributions follow
        self._skip = self.recent.slots.new_zeros(num_rows)  # how many of them followed committed events
        self._last = self._skip - 1  # index of the last of use; -1: none

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Forget the round before of the rows that begin new requests."""
        super().prefill(rows, requests, state)
        self._last[rows] = -1

    def propose(self, state: BatchState, uniforms: Tensor) -> Draft:
        """Draft a chain, from the round before where it knows the event, else as in `SelfDrafter`."""
        if self._distributions is None or uniforms.shape[1] == 0:
            return super().propose(state, uniforms)
        draft_length = uniforms.shape[1]
        positions = torch.arange(draft_length, device=uniforms.device)
        source = self._skip.unsqueeze(1) + positions
        is_seen = source <= self._last.unsqueeze(1)
        source = torch.where(is_seen, source, 0)
        distributions, assumed = self._distributions.at(source), self._marks_before
        assert assumed is not None
        marks_before = torch.where(is_seen, assumed.gather(1, source), -1)
        again = Again(marks_before, *distributions.sample(uniforms[..., :3]))
        before, inter_times, marks = self.follow(state, uniforms, again)
        where = torch.where(marks_before == before, positions, draft_length + positions)
        distributions = type(distributions).cat([distributions, self.recent.after(before)], 1).at(where)
        times = state.last_times.unsqueeze(1) + inter_times.cumsum(1)
        return Draft(inter_times, times, marks, distributions, self.lengths(draft_length, state))

    def commit(self, done: Committed) -> None:
        """Keep the target's distributions for the next round."""
        super().commit(done)
        self._distributions, self._marks_before = done.distributions.whole(), done.seen_marks
        self._skip, self._last = done.num_accepted + 1, done.draft.num_drafted

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().compact(rows)
        self._skip, self._last = self._skip[rows], self._last[rows]
        if self._distributions is not None and self._marks_before is not None:
            self._distributions, self._marks_before = self._distributions[rows], self._marks_before[rows]
