"""Drafting without a draft model: the target's own recent distributions, held fixed for a round.

Source: after Bilos et al., arXiv 2510.20031.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.recent import RecentDistributions
from tppsd.sampling.requests import Requests
from tppsd.sampling.runner import ModelRunner
from tppsd.sampling.state import BatchState


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
        """Draft a chain: what every distribution would draw at every position, then follow the marks through it."""
        if self.recent.table is None or uniforms.shape[1] == 0:
            return Draft.nothing(uniforms)
        distributions, newest, every_tau, every_mark = self.draw(state, uniforms)
        before, marks = follow_marks(every_mark, newest)
        inter_times = every_tau.gather(2, before.unsqueeze(2)).squeeze(2)
        times = state.last_times.unsqueeze(1) + inter_times.cumsum(1)
        draft = Draft(inter_times, times, marks, distributions.at(before), self.lengths(uniforms.shape[1], state))
        return draft.needed(state) if self.stops_at_end else draft

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
