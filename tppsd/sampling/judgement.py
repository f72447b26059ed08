"""What becomes of a draft, as one function of tensors that neither asks nor tells the host anything: graphs can record it.

It is the rule "joint" of rules.py and the end of a round of speculative.py, for all rows alike. How many proposals an event takes
that follows a rejection is not known: some are made for every row, those included whose drafts were accepted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.models.law import sample_with_ratio
from tppsd.sampling.drafters import Draft
from tppsd.sampling.noise import Streams
from tppsd.sampling.rows import Progress
from tppsd.sampling.rules import Rejected, accept_joint, one_turn, reject_until_kept
from tppsd.sampling.speculative import at_positions, new_events

_AT_ONCE, _FEWEST, _MOST = 32_768, 16, 256  # proposals: of all rows together, and of each


class Given(NamedTuple):
    """What is judged, beside laws. Fields: drafted (3, rows, n): columns of Events; lengths int64 (rows,): how many of these each
    has; coins (rows, n, 2), uniforms (rows, n + 1, 3): as in RoundNoise; keys, cursors: as in Streams; last_times float64
    (rows,); then those of Progress."""

    drafted: Tensor
    lengths: Tensor
    coins: Tensor
    uniforms: Tensor
    keys: Tensor
    cursors: Tensor
    last_times: Tensor
    counts: Tensor
    limit: Tensor
    end: Tensor
    active: Tensor

    @property
    def progress(self) -> Progress:
        return Progress(self.counts, self.limit, self.end, self.active)

    def draft(self, laws: Any) -> Draft:
        """That was drawn from `laws`."""
        inter_times, times, marks = self.drafted.unbind(0)
        return Draft(inter_times, times, marks.long(), laws, self.lengths)


class Outcome(NamedTuple):
    """What a round comes to, of each row. Fields: num_accepted, num_used (see Progress.used), counts (after it) int64 (rows,);
    is_counted: it has drafted as many as others, is_short: its proposals were not enough, reached_end bool (rows,)."""

    num_accepted: Tensor
    num_used: Tensor
    counts: Tensor
    is_counted: Tensor
    is_short: Tensor
    reached_end: Tensor


class Judgement(NamedTuple):
    """Fields: outcome float64 (6, rows): those of Outcome; columns float64 (3, rows, n + 1): of `new_events`."""

    outcome: Tensor
    columns: Tensor

    def joined(self) -> Tensor:
        """In one tensor (rows, 6 + 3 * (n + 1)): graphs give one."""
        return torch.cat([self.outcome.t(), self.columns.movedim(1, 0).flatten(1)], 1)

    @classmethod
    def of(cls, joined: Tensor) -> Judgement:
        num_fields = len(Outcome._fields)
        return cls(joined[:, :num_fields].t(), joined[:, num_fields:].unflatten(1, (3, -1)).movedim(1, 0))

    @property
    def num_accepted(self) -> Tensor:
        """int64 (rows,)."""
        return self.outcome[0].long()


def read(outcome: Tensor) -> Outcome:
    """On the CPU."""
    num_accepted, num_used, counts = outcome[:3].long()
    is_counted, is_short, reached_end = outcome[3:] > 0
    return Outcome(num_accepted, num_used, counts, is_counted, is_short, reached_end)


def judge(laws: Any, draft_laws: Any, given: Given) -> Judgement:
    """By the target's laws (rows, n + 1) and those that the n events were drafted from (rows, n); None if n = 0."""
    draft, n = given.draft(draft_laws), given.drafted.shape[2]
    inter_times, marks = laws.at(given.lengths).sample(at_positions(given.uniforms, given.lengths))
    if n == 0:
        return _judgement(given, draft, given.lengths, inter_times, marks, torch.zeros_like(given.active))
    num_accepted = torch.minimum(accept_joint(draft, laws[:, :-1], given.coins).num_accepted, given.lengths)
    everyone, is_rejected = (
        torch.arange(len(num_accepted), device=num_accepted.device),
        given.active & (num_accepted < given.lengths),
    )
    rejected = Rejected(everyone, num_accepted.clamp_max(n - 1), draft, laws)
    turn = one_turn(rejected, _attempts(given), sample_with_ratio, 0, _num_proposals(given))
    inter_times = torch.where(is_rejected, turn.inter_times, inter_times)
    marks = torch.where(is_rejected, turn.marks, marks)
    return _judgement(given, draft, num_accepted, inter_times, marks, is_rejected & ~turn.found)


def judge_on(laws: Any, draft_laws: Any, given: Given, before: Judgement, which: Tensor) -> Judgement:
    """With as many more proposals as it takes, for the rows `which`."""
    draft, num_accepted = given.draft(draft_laws), before.num_accepted
    inter_times, _, marks = at_positions(before.columns.movedim(0, 2), num_accepted).unbind(1)
    rejected = Rejected(which, num_accepted[which], draft, laws)
    new = reject_until_kept(rejected, _attempts(given), sample_with_ratio, first=_num_proposals(given))
    inter_times, marks = inter_times.index_copy(0, which, new[0]), marks.long().index_copy(0, which, new[1])
    return _judgement(given, draft, num_accepted, inter_times, marks, torch.zeros_like(given.active))


def _judgement(
    given: Given, draft: Draft, num_accepted: Tensor, inter_times: Tensor, marks: Tensor, is_short: Tensor
) -> Judgement:
    events = new_events(given.last_times, draft, num_accepted, inter_times, marks)
    counts, reached_end = given.progress.after(events.times, num_accepted + 1)
    num_used, is_counted = given.progress.used(num_accepted, counts), given.active & (given.lengths == draft.marks.shape[1])
    outcome = Outcome(num_accepted, num_used, counts, is_counted, is_short, reached_end)
    return Judgement(torch.stack([field.double() for field in outcome]), events.columns)


def _attempts(given: Given) -> Any:
    return Streams(given.keys, given.cursors).attempts


def _num_proposals(given: Given) -> int:
    """Of each row, before the host is told whether they are enough."""
    return max(_FEWEST, min(_MOST, _AT_ONCE // len(given.lengths)))
