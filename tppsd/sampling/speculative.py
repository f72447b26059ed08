"""Speculative sampling (Leviathan et al. 2023; TPP-SD, arXiv 2507.09252): draft, verify, accept, recover, commit.

A round yields 1 to draft_length + 1 events per row and keeps the target's distribution exactly, whatever the draft.
Candidate trees (tppsd.sampling.tree) and fixed-point sampling (tppsd.sampling.fixed_point) are rules over this round.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.protocol import EventDistribution
from tppsd.sampling.autoregressive import ModelRunner, autoregressive_step, given_elapsed
from tppsd.sampling.draft_length import DraftLength
from tppsd.sampling.drafters.base import Committed, Draft, Drafter
from tppsd.sampling.engine import Advance
from tppsd.sampling.noise import RowNoise, Streams
from tppsd.sampling.requests import Requests
from tppsd.sampling.rules import Acceptance, Rejected, RoundUniforms, Rule
from tppsd.sampling.state import BatchState, Events


class Round(NamedTuple):
    """Says what a round has done.

    Fields:
        draft: the chain, or the path that was taken through a tree.
        num_accepted: int64 (rows,).
        events: (rows, n + 1), of which the first num_accepted + 1 of each row were committed.
        distributions: the target's distributions of them, (rows, n + 1).
    """

    draft: Draft
    num_accepted: Tensor
    events: Events
    distributions: EventDistribution


def speculative_round(
    state: BatchState, target: ModelRunner, drafter: Drafter, rule: Rule, noise: RowNoise, draft_length: int
) -> Round:
    """Advance every row by 1 to draft_length + 1 events, by one target pass.

    Args:
        state: the running sequences, B rows.
        target: runs the target, whose cache lacks the last token of every row.
        drafter: proposes events.
        rule: accepts a prefix of them, and replaces the first rejected one.
        noise: of the rows.
        draft_length: n >= 1, events drafted per row (levels of a tree); a drafter may draft fewer.
    """
    u = rule.uniforms(noise, draft_length)  # of each row's next events: draft (B, n, 3), accept (B, n, 2), target

    # 1 draft: events (B, n) and the distributions they were drawn from
    draft = drafter.propose(state, u.draft)

    # 2 verify: the target's distributions after the last token and each drafted event, (B, n + 1), in one pass
    ahead = given_elapsed(target.extend(state.last_token.cat(draft.tokens), draft.parents), state)

    # 3 accept a prefix (of a tree, of one path through it)
    accepted = _accept(rule, draft, ahead, u, state.active, noise)
    last_mark, last_time = state.last_marks(target.model.num_marks), state.last_times

    # 4 recover: the event behind the prefix, (B,): the target's own after all of the draft, else an adjusted one
    num_accepted, inter_time, mark = recover(rule, accepted, u, state.active, noise)

    # 5 commit: both caches roll back by length
    events = events_of(accepted.draft, last_time, num_accepted, inter_time, mark)
    accepted.draft.keep_in(target.cache, num_accepted, draft.draft_length, 1)
    state.commit(events, num_accepted + 1)
    seen_marks = torch.cat([last_mark.unsqueeze(1), accepted.draft.marks], 1)
    drafter.commit(Committed(accepted.draft, num_accepted, state, accepted.target, seen_marks))
    rule.consume(noise, num_accepted + 1, draft_length)
    return Round(accepted.draft, num_accepted, events, accepted.target)


def _accept(
    rule: Rule, draft: Draft, ahead: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
) -> Acceptance:
    if draft.draft_length == 0:
        return Acceptance(draft, ahead, draft.num_drafted)
    return rule.accept(draft, ahead, uniforms, running, noise)


def recover(
    rule: Rule, accepted: Acceptance, uniforms: RoundUniforms, running: Tensor, noise: Streams
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the accepted length and the event behind the accepted prefix.

    It is the bonus event after a fully accepted draft, else what the rule puts in place of the first rejected event.

    Returns:
        (num_accepted, inter_times, marks), each (rows,).
    """
    draft, num_accepted = accepted.draft, accepted.num_accepted
    at_end = draft.num_drafted
    bonus = accepted.target.at(at_end).sample(at_positions(uniforms.target, at_end))
    is_rejected = running & (num_accepted < at_end)
    if not is_rejected.any():
        return num_accepted, *bonus
    rows = is_rejected.nonzero().squeeze(1)
    rejected = Rejected(rows, num_accepted[rows], draft, accepted.target)
    recovered = rule.resample(rejected, accepted, uniforms, noise)
    both = zip((num_accepted, *bonus), recovered, strict=True)
    new_num, inter_times, marks = (old.index_copy(0, rows, new) for old, new in both)
    return new_num, inter_times, marks


def events_of(draft: Draft, last_times: Tensor, num_accepted: Tensor, inter_times: Tensor, marks: Tensor) -> Events:
    """Return the accepted prefix and the event behind it, (rows, draft_length + 1), and then anything."""
    before = torch.cat([last_times.unsqueeze(1), draft.times], 1).gather(1, num_accepted.unsqueeze(1))
    inter_times, marks = inter_times.unsqueeze(1), marks.unsqueeze(1)
    new = Events.of(inter_times, before + inter_times, marks).columns
    columns = torch.cat([Events.of(draft.inter_times, draft.times, draft.marks).columns, new], 2)
    return Events(columns.scatter_(2, num_accepted.view(1, -1, 1).expand_as(new), new))


def at_positions(values: Tensor, positions: Tensor) -> Tensor:
    """Select values (rows, n, ...) at int64 positions (rows,), (rows, ...)."""
    return values[torch.arange(len(values), device=values.device), positions]


class Speculative:
    """Samples by rounds of drafts whose length is chosen round by round; a length of 0 is the autoregressive step."""

    def __init__(
        self, target: ModelRunner, drafter: Drafter, rule: Rule, noise: RowNoise, draft_length: DraftLength
    ) -> None:
        self.target, self.drafter, self.rule, self.noise = target, drafter, rule, noise
        self.draft_length = draft_length

    def prefill(self, rows: Tensor, requests: Requests, state: BatchState) -> None:
        """Encode the histories of new requests, for target and drafter."""
        self.target.prefill(rows, requests)
        self.drafter.prefill(rows, requests, state)

    def compact(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.target.compact(rows)
        self.drafter.compact(rows)

    def advance(self, state: BatchState) -> Advance:
        """Advance every row by one round."""
        draft_length = self.draft_length.choose(len(state))
        if draft_length == 0:
            return self._step(state)
        active, before = state.active, state.counts
        done = speculative_round(state, self.target, self.drafter, self.rule, self.noise, draft_length)
        num_counted = torch.minimum(state.counts, state.limit) - before
        num_used = torch.minimum(done.num_accepted, num_counted)
        rounds = (*until_stop(done.draft.num_drafted, done.num_accepted, num_counted, state.stopped), num_used)
        num_drafted, num_accepted, num_used = (values[active] for values in rounds)
        nodes = accepted_nodes(done.draft.nodes, rounds[1], active)
        return Advance(1, done.events, done.distributions, num_drafted, num_accepted, num_used, nodes=nodes)

    def _step(self, state: BatchState) -> Advance:
        """Advance every row by one event; the drafter learns of it."""
        u = self.rule.uniforms(self.noise, 0)
        # no events, but a drafter that has not drafted before begins with the last token
        nothing, last_mark = self.drafter.propose(state, u.draft), state.last_marks(self.target.model.num_marks)
        active = state.active
        events, distribution = autoregressive_step(state, self.target, u.target)
        none = nothing.num_drafted
        self.drafter.commit(Committed(nothing, none, state, distribution, last_mark.unsqueeze(1)))
        self.rule.consume(self.noise, torch.ones_like(state.counts), 0)
        return Advance(1, events, distribution, none[active], none[active], none[active])


def until_stop(
    num_drafted: Tensor, num_accepted: Tensor, num_counted: Tensor, stopped: Tensor
) -> tuple[Tensor, Tensor]:
    """Return drafted and accepted events of rounds, int64 (rows, ...), but those behind an event that stopped a row.

    Args:
        num_drafted, num_accepted: int64 (rows, ...).
        num_counted: likewise, with which event of the round the row stopped, if it did.
        stopped: bool (rows, ...), it did in this call.
    """
    is_cut = stopped & (num_counted <= num_accepted)
    return torch.where(is_cut, num_counted, num_drafted), torch.where(is_cut, num_counted, num_accepted)


def accepted_nodes(nodes: Tensor | None, num_accepted: Tensor, active: Tensor) -> Tensor | None:
    """Return the numbers of the nodes that were accepted, int64; None for a chain."""
    if nodes is None:
        return None
    is_accepted = torch.arange(nodes.shape[1], device=nodes.device) < num_accepted.unsqueeze(1)
    return nodes[is_accepted & active.unsqueeze(1)]
