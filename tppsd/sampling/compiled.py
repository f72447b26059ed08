"""Rounds of a draft model and the rule `joint`, many in one native call.

Event by event they are those of speculative.py.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens
from tppsd.sampling.draft_length import FixedDraftLength
from tppsd.sampling.drafters.base import Drafter
from tppsd.sampling.drafters.model import ModelDrafter
from tppsd.sampling.engine import Advance
from tppsd.sampling.rules import JointRule, Rule
from tppsd.sampling.speculative import Speculative, until_stop
from tppsd.sampling.state import BatchState, Events

_AT_ONCE = 128  # events of a row after which a call begins no further round: interrupts and other rows wait for it


def can_speculate(drafter: Drafter, rule: Rule) -> bool:
    """Say whether native code knows these rounds of a compiled target."""
    if type(drafter) is not ModelDrafter or type(rule) is not JointRule:
        return False
    from tppsd.backends.cpp.model import CompiledTPP

    return isinstance(drafter.runner.model, CompiledTPP)


class CompiledSpeculative(Speculative):
    """Samples by many rounds per call; those that draft nothing are Speculative's own."""

    drafter: ModelDrafter

    def advance(self, state: BatchState) -> Advance:
        """Advance every row by one round or several."""
        draft_length = self.draft_length.choose(len(state))
        if draft_length == 0:
            return self._step(state)
        before = state.counts
        speculated = self._speculate(state, draft_length)
        n = int(speculated.num_events.max())
        self.noise.advance(speculated.num_events, n)
        columns = (speculated.inter_times[:, :n], speculated.times[:, :n], speculated.marks[:, :n])
        events = Events.of(*columns)
        state.commit(events, speculated.num_events)
        self._update_backlog(speculated)
        num_wanted = torch.minimum(state.counts, state.limit) - before
        num_rounds = int(speculated.num_rounds.max())
        return Advance(speculated.num_rounds, events, None, *rounds_of(speculated, num_wanted, state), num_rounds)

    def _speculate(self, state: BatchState, draft_length: int) -> Any:
        """Run rounds of one length.

        Each row makes as many as it wants where all rounds are of that length. Else all rows make as many, so that a
        row which enters later finds the lengths that were recorded.
        """
        from tppsd.backends.cpp.model import CompiledTPP
        from tppsd.backends.cpp.rounds import RoundInputs, speculate

        target, draft, backlog = self.target, self.drafter.runner, self.drafter.backlog
        limits = torch.where(state.active, state.limit - state.counts, 0)
        room = min(_AT_ONCE, int(limits.max())) + draft_length + 1
        most = None if isinstance(self.draft_length, FixedDraftLength) else self.draft_length.most_rounds
        noise, ends = (self.noise.keys, self.noise.cursors), (state.elapsed, state.end, limits)
        given = (backlog.begin(state.last_token), backlog.num, *noise, *ends, state.stop_marks)
        inputs = RoundInputs(*given, draft_length, room, most)
        models = cast(Any, target.model), cast(CompiledTPP, draft.model)
        return speculate(*models, (target.cache, draft.cache), inputs)

    def _update_backlog(self, speculated: Any) -> None:
        """Hold what the draft's cache lacks: the newest event, and after a fully accepted draft the one before."""
        num = torch.where(speculated.num_rounds > 0, speculated.num_backlog, 1)
        where = (speculated.num_events - num).unsqueeze(1) + torch.arange(2)
        where = where.clamp_max(speculated.times.shape[1] - 1)
        fields = (speculated.inter_times, speculated.times, speculated.marks)
        inter_times, times, marks = (field.gather(1, where) for field in fields)
        self.drafter.backlog.tokens, self.drafter.backlog.num = EventTokens(marks + 1, times, inter_times), num


def rounds_of(speculated: Any, num_wanted: Tensor, state: BatchState) -> tuple[Tensor, Tensor, Tensor]:
    """Return drafted, accepted and used events of every round of every row, int64 (rounds,).

    What a round drafted behind an event that stopped its row does not count.

    Args:
        speculated: what the rounds have made.
        num_wanted: int64 (rows,), so many events each row had use for, the first ones.
        state: after the commit.
    """
    is_round = torch.arange(speculated.num_drafted.shape[1]) < speculated.num_rounds.unsqueeze(1)
    num_events = speculated.num_accepted + 1
    num_before = num_events.cumsum(1) - num_events
    num_counted = num_wanted.unsqueeze(1) - num_before
    num_used = torch.minimum(speculated.num_accepted, num_counted)
    stopped = state.stopped.unsqueeze(1)
    num_drafted, num_accepted = until_stop(speculated.num_drafted, speculated.num_accepted, num_counted, stopped)
    return num_drafted[is_round], num_accepted[is_round], num_used[is_round]
