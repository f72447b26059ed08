"""Drafting from the distributions of the round before: exact speculative Jacobi decoding.

Source: after Teng et al., arXiv 2410.01699.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.drafters.own import Again, SelfDrafter
from tppsd.sampling.requests import Requests
from tppsd.sampling.runner import ModelRunner
from tppsd.sampling.state import BatchState


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

    def commit(
        self,
        draft: Draft,
        num_accepted: Tensor,
        state: BatchState,
        distributions: EventDistribution,
        seen_marks: Tensor,
    ) -> None:
        """Keep the target's distributions for the next round."""
        super().commit(draft, num_accepted, state, distributions, seen_marks)
        self._distributions, self._marks_before = distributions.whole(), seen_marks
        self._skip, self._last = num_accepted + 1, draft.num_drafted

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().compact(rows)
        self._skip, self._last = self._skip[rows], self._last[rows]
        if self._distributions is not None and self._marks_before is not None:
            self._distributions, self._marks_before = self._distributions[rows], self._marks_before[rows]
