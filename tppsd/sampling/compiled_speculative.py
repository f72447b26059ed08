"""Rounds of a draft model and the rule `joint`, several in one call of compiled code: event by event those of
speculative.py.

The target's passes are compiled as well, or its own operators, which compiled code then calls.
"""

from __future__ import annotations

import time
from typing import Any, cast

import torch
from torch import Tensor

from tppsd.backends.cpp.active import stand_in
from tppsd.backends.cpp.compiled import CompiledModel
from tppsd.backends.cpp.operated import OperatedModel
from tppsd.backends.cpp.rounds import Speculated, Wanted, speculate, speculate_by_operators
from tppsd.models.protocol import EventTokens
from tppsd.sampling.draft_length import FixedDraftLength
from tppsd.sampling.drafters import ModelDrafter
from tppsd.sampling.rows import Events, Rows
from tppsd.sampling.speculative import Speculative

_AT_ONCE = (
    128  # events of a row after which a call begins no further round: interrupts, other rows and windows wait for it
)


def are_compiled(target: Any, draft: Any) -> bool:
    """Can these rounds be had: are the draft's passes calls of compiled code, in this thread, and the target's such or
    operators behind which compiled code can go on?"""
    if not isinstance(stand_in(draft), CompiledModel):
        return False
    return isinstance(stand_in(target), CompiledModel | OperatedModel)


class CompiledSpeculative(Speculative):
    """Rounds of a ModelDrafter. Those that draft nothing are Speculative's own."""

    drafter: ModelDrafter

    def round(self, rows: Rows) -> Tensor:
        """One round of every row or several; returns bool (rows,): the row has reached its end."""
        started, draft_length = time.perf_counter(), self.draft_length.choose(len(rows))
        if draft_length == 0:
            self.steps = 1
            return self.one_round(rows, draft_length, started)
        made, before = self.several(rows, draft_length), rows.counts
        self.steps, n = made.num_rounds, int(made.num_events.max())
        self.noise.advance(made.num_events, n)
        reached_end = rows.commit(
            Events.of(made.inter_times[:, :n], made.times[:, :n], made.marks[:, :n]), made.num_events
        )
        self.show_draft(made)
        self.count(made, torch.minimum(rows.counts, rows.limit) - before, time.perf_counter() - started)
        return reached_end

    def several(self, rows: Rows, draft_length: int) -> Speculated:
        """Rounds of one length: of each row as many as it wants where all are of that length, else of all rows as many,
        so that a row which enters later finds the lengths that were recorded."""
        target, draft, unseen = self.target, self.drafter.rows, self.drafter.unseen
        own, drafting = stand_in(target.model), cast(CompiledModel, stand_in(draft.model))
        limits = torch.where(rows.active, rows.limit - rows.counts, 0)
        room = min(_AT_ONCE, int(limits.max())) + draft_length + 1
        most = None if isinstance(self.draft_length, FixedDraftLength) else self.draft_length.most_rounds
        noise, ends = (self.noise.keys, self.noise.cursors), (rows.elapsed, rows.end, limits)
        wanted = Wanted(unseen.begin(rows.pending), unseen.num, *noise, *ends, draft_length, room, most)
        caches = (target.cache, draft.cache)
        if isinstance(own, CompiledModel):
            return speculate((own, drafting), caches, wanted)
        return speculate_by_operators((cast(OperatedModel, own), drafting), caches, wanted)

    def show_draft(self, made: Speculated) -> None:
        """Its cache lacks the newest event, and after a fully accepted draft the one before."""
        num = torch.where(made.num_rounds > 0, made.num_unseen, 1)
        where = ((made.num_events - num).unsqueeze(1) + torch.arange(2)).clamp_max(made.times.shape[1] - 1)
        inter_times, times, marks = (field.gather(1, where) for field in (made.inter_times, made.times, made.marks))
        self.drafter.unseen.tokens, self.drafter.unseen.num = EventTokens(marks + 1, times, inter_times), num

    def count(self, made: Speculated, num_wanted: Tensor, seconds: float) -> None:
        """What was drafted and accepted; each row had use for its first `num_wanted` (rows,) events."""
        is_round = torch.arange(made.num_drafted.shape[1]) < made.num_rounds.unsqueeze(1)
        drafted, accepted = made.num_drafted[is_round], made.num_accepted[is_round]
        cells = drafted * len(self.accepted_counts) + accepted
        self.accepted_counts.view(-1).index_add_(0, cells, torch.ones_like(cells))
        if not isinstance(self.draft_length, FixedDraftLength):
            num_before = (made.num_accepted + 1).cumsum(1) - (made.num_accepted + 1)
            num_used = torch.minimum(made.num_accepted, num_wanted.unsqueeze(1) - num_before)[is_round]
            longest = int(drafted.max())
            self.draft_length.record(longest, num_used, drafted == longest, seconds, int(made.num_rounds.max()))
