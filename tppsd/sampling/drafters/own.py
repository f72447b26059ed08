"""Drafting without a draft model: the target's own recent distributions, held fixed for a round.

Source: after Bilos et al., arXiv 2510.20031.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.recent import RecentDistributions
from tppsd.sampling.requests import Requests
from tppsd.sampling.runner import ModelRunner
from tppsd.sampling.state import BatchState

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

    def commit(
        self,
        draft: Draft,
        num_accepted: Tensor,
        state: BatchState,
        distributions: EventDistribution,
        seen_marks: Tensor,
    ) -> None:
        """Take in the target's distributions after the committed events."""
        self.recent.update(distributions, seen_marks, num_accepted + 1)

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
