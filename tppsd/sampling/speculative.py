"""Speculative sampling of a chain (Leviathan et al. 2023; TPP-SD, arXiv 2507.09252): draft, verify, accept, correct,
commit.

A round yields 1 to draft_length + 1 events per row and keeps the target's law exactly, whatever the draft.

Noise belongs to the event it is for: what was drawn for events after the first rejection has decided nothing yet, and
drafts those events again in the next round, from other laws. Block verification looks at the whole draft at once, so
that its rounds start with fresh noise.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.sampling.block import BLOCK
from tppsd.sampling.draft_length import DraftLength
from tppsd.sampling.drafters import Draft, Drafter
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.recorder import Recorder
from tppsd.sampling.rows import Events, ModelRows, Request, Rows, last_marks
from tppsd.sampling.rules import FACTORISED, JOINT, Corrected, Rejected, Verdict

RULES = {"joint": JOINT, "factorised": FACTORISED, "block": BLOCK}
# what an event may need: three uniforms to draft it, two coins to test it, three uniforms to draw it from the target
ADDRESSES = [
    int(address(0, purpose, draw))
    for purpose, draw in (
        (Purpose.DRAFT, 0), (Purpose.DRAFT, 1), (Purpose.TEST, 0), (Purpose.TARGET, 0), (Purpose.TARGET, 1)
    )
]  # fmt: skip
FOR_DRAFT, COINS, FOR_TARGET = slice(0, 3), slice(4, 6), slice(6, 9)


class RoundNoise(NamedTuple):
    """Uniforms of one round, n events drafted. Fields: draft (rows, n, 3); coins (rows, n, 2); target (rows, n + 1, 3),
    of which the one at the position of the bonus event is used."""

    draft: Tensor
    coins: Tensor
    target: Tensor


class Speculative:
    """Draft-verify rounds with one candidate per step; tree_speculative.py changes the judgement to one of several.

    Args:
        target: model rows of the target.
        drafter: proposes events.
        draft_length: chooses how many events each round drafts, `longest` at most.
        rule: "joint", "factorised" or "block".
        noise: of the rows, with ADDRESSES per event.
        recorder: of more than the events.
    """

    steps: int | Tensor = 1
    parents: tuple[int, ...] | None = None  # of the newest event and a tree's nodes; None: a chain

    def __init__(
        self,
        target: ModelRows,
        drafter: Drafter,
        draft_length: DraftLength,
        longest: int,
        rule: str,
        noise: RowNoise,
        recorder: Recorder,
    ) -> None:
        self.target, self.drafter = target, drafter
        self.draft_length, self.recorder = draft_length, recorder
        self.chain_rule = RULES[rule]
        self.uses_whole_window = rule == "block"
        self.num_marks = target.model.num_marks
        self.noise = noise
        self.accepted_counts = noise.keys.new_zeros(longest + 1, longest + 1)

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.target.admit(rows, requests)
        self.drafter.admit(rows, requests, state)

    def keep_rows(self, rows: Tensor) -> None:
        self.target.keep_rows(rows)
        self.drafter.keep_rows(rows)

    def round(self, rows: Rows) -> Tensor:
        """One round of every row; returns bool (rows,): the row has reached its end."""
        started = time.perf_counter()
        return self.one_round(rows, self.draft_length.choose(len(rows)), started)

    def one_round(self, rows: Rows, draft_length: int, started: float) -> Tensor:
        """Of so many drafted events."""
        noise = self.draw(draft_length)
        draft = self.drafter.propose(rows, noise.draft)
        laws = self.verify(rows, draft)
        draft, laws, verdict = self.judge(rows, draft, laws, noise)
        verdict, inter_times, marks = self.correct(rows, draft, laws, verdict, noise)
        before = rows.progress
        reached_end = self.commit(
            rows, draft, laws, verdict, new_events(rows.last_times, draft, verdict.num_accepted, inter_times, marks)
        )
        self.use_up(verdict, noise.target.shape[1])
        num_used, num_drafted = before.used(verdict.num_accepted, rows.counts), draft.marks.shape[1]
        is_counted = rows.active & (draft.num_drafted == num_drafted)
        self.draft_length.record(num_drafted, num_used, is_counted, time.perf_counter() - started)
        return reached_end

    def draw(self, draft_length: int) -> RoundNoise:
        """The noise of each row's next events."""
        window = self.noise.window(draft_length + 1)
        return RoundNoise(window[:, :-1, FOR_DRAFT], window[:, :-1, COINS], window[..., FOR_TARGET])

    def use_up(self, verdict: Verdict, longest: int) -> None:
        """Of the noise of `longest` events, what may not be used again."""
        self.noise.advance(longest if self.uses_whole_window else verdict.num_accepted + 1, longest)

    def verify(self, rows: Rows, draft: Draft) -> Any:
        """The target's laws, one more than events were drafted, from one pass over the newest committed event and
        those."""
        tokens = rows.pending.cat(draft.tokens)
        laws = self.target.extend(tokens, self.parents and self.parents[: tokens.ids.shape[1]])
        if rows.is_truncated_start:
            elapsed = torch.zeros_like(tokens.times)
            elapsed[:, 0] = rows.elapsed
            laws = laws.truncated(elapsed)
        return laws

    def judge(self, rows: Rows, draft: Draft, laws: Any, noise: RoundNoise) -> tuple[Draft, Any, Verdict]:
        """The rule's verdict on what each row has drafted, and the steps that it is about: the chain itself."""
        if draft.marks.shape[1] == 0:
            nothing = torch.zeros_like(rows.counts)
            return draft, laws, Verdict(nothing, nothing.bool())
        verdict = self.accept_drafted(draft, laws[:, :-1], noise)
        if draft.lengths is not None:
            verdict = verdict._replace(num_accepted=torch.minimum(verdict.num_accepted, draft.lengths))
        return draft, laws, verdict

    def accept_drafted(self, draft: Draft, laws: Any, noise: RoundNoise) -> Verdict:
        """By the rule, with the laws of the drafted positions."""
        return self.chain_rule.accept(draft, laws, noise.coins[:, : draft.marks.shape[1]])

    def correct(
        self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, noise: RoundNoise
    ) -> tuple[Verdict, Tensor, Tensor]:
        """One more event (rows,): the target's own after a fully accepted draft (bonus), else from the adjusted law."""
        where = (rows.active & (verdict.num_accepted < draft.num_drafted)).nonzero().squeeze(1)
        if len(where) == 0:
            return verdict, *self.bonus(draft, laws, noise)
        rejected = Rejected(where, verdict.num_accepted[where], draft, laws)
        corrected = self.adjusted(rejected, verdict)
        if len(where) == len(rows):  # no row needs a bonus event
            return verdict._replace(num_accepted=corrected.num_accepted), corrected.inter_times, corrected.marks
        bonus = (verdict.num_accepted, *self.bonus(draft, laws, noise))
        num_accepted, inter_times, marks = (
            old.index_copy(0, where, new) for old, new in zip(bonus, corrected, strict=True)
        )
        return verdict._replace(num_accepted=num_accepted), inter_times, marks

    def adjusted(self, rejected: Rejected, verdict: Verdict) -> Corrected:
        """What the rule puts in place of what it rejects."""
        return self.chain_rule.adjusted(rejected, verdict, self.noise.attempts)

    def bonus(self, draft: Draft, laws: Any, noise: RoundNoise) -> tuple[Tensor, Tensor]:
        """The target's own event (rows,) after each row's whole draft."""
        if draft.lengths is None:
            n = draft.marks.shape[1]
            return laws[:, n].sample(noise.target[:, n])
        return laws.at(draft.lengths).sample(at_positions(noise.target, draft.lengths))

    def commit(self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, events: Events) -> Tensor:
        """Append the accepted prefix and the new event; roll the caches back to them by length."""
        n = verdict.num_accepted
        events = self.recorder.add(events, laws)
        self.roll_back(draft, n)
        seen_marks = torch.cat([last_marks(rows, self.num_marks).unsqueeze(1), draft.marks], 1)
        reached_end = rows.commit(events, n + 1)
        self.drafter.commit(draft, n, rows, laws, seen_marks)
        cell = draft.num_drafted * len(self.accepted_counts) + n
        self.accepted_counts.view(-1).index_add_(0, cell, rows.active.long())
        return reached_end

    def roll_back(self, draft: Draft, num_accepted: Tensor) -> None:
        """The target's cache keeps the newest event of before and the accepted ones."""
        self.target.cache.roll_back(draft.marks.shape[1] - num_accepted)


def new_events(last_times: Tensor, draft: Draft, num_accepted: Tensor, inter_times: Tensor, marks: Tensor) -> Events:
    """The accepted prefix and the event behind it (rows, draft_length + 1), and then anything."""
    last = torch.cat([last_times.unsqueeze(1), draft.times], 1).gather(1, num_accepted.unsqueeze(1))
    new = Events.of(inter_times.unsqueeze(1), last + inter_times.unsqueeze(1), marks.unsqueeze(1)).columns
    columns = torch.cat([Events.of(draft.inter_times, draft.times, draft.marks).columns, new], 2)
    return Events(columns.scatter_(2, num_accepted.view(1, -1, 1).expand_as(new), new))


def at_positions(values: Tensor, positions: Tensor) -> Tensor:
    """(rows, n, ...) at int64 (rows,) -> (rows, ...)."""
    return values[torch.arange(len(values), device=values.device), positions]
