"""Speculative sampling of a chain (Leviathan et al. 2023; TPP-SD, arXiv 2507.09252): draft, verify, accept, correct, commit.

A round yields 1 to draft_length + 1 events per row and keeps the target's law exactly, whatever the draft.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.models.protocol import EventTokens
from tppsd.sampling.block import accept_block, adjusted_block
from tppsd.sampling.drafters import Draft, Drafter
from tppsd.sampling.noise import Purpose, RowNoise, address
from tppsd.sampling.rows import Events, ModelRows, Request, Rows, last_marks
from tppsd.sampling.rules import (
    Rejected,
    Verdict,
    accept_factorised,
    accept_joint,
    adjusted_factorised,
    adjusted_joint,
)

RULES = {
    "joint": (accept_joint, adjusted_joint),
    "factorised": (accept_factorised, adjusted_factorised),
    "block": (accept_block, adjusted_block),
}


class Speculative:
    """Draft-verify rounds with one candidate per step; tree_speculative.py changes the judgement to one of several.

    Args:
        target: model rows of the target.
        drafter: proposes events.
        draft_length: events drafted per round.
        rule: "joint", "factorised" or "block".
        noise: the rows' noise, for the loops after a rejection.
        with_log_probs: also record the target's log-density of every event.
    """

    parents: tuple[int, ...] | None = None  # of the newest event and a tree's nodes; None: a chain

    def __init__(
        self, target: ModelRows, drafter: Drafter, draft_length: int, rule: str, noise: RowNoise, with_log_probs: bool
    ) -> None:
        self.target, self.drafter = target, drafter
        self.draft_length, self.with_log_probs = draft_length, with_log_probs
        self.num_drafted = draft_length
        self.accept, self.adjusted = RULES[rule]
        self.num_marks = target.model.num_marks
        self.noise = noise
        self.accepted_counts = noise.keys.new_zeros(draft_length + 1, draft_length + 1)

    def admit(self, rows: Tensor, requests: list[Request], state: Rows) -> None:
        self.target.admit(rows, requests)
        self.drafter.admit(rows, requests, state)

    def keep_rows(self, rows: Tensor) -> None:
        self.target.keep_rows(rows)
        self.drafter.keep_rows(rows)

    def round(self, rows: Rows, noise: Tensor) -> Tensor:
        """One round of every row; returns bool (rows,): the row has reached its end."""
        n = self.num_drafted
        for_draft = noise[:, : 2 * n].reshape(len(rows), n, 4)
        coins, for_bonus = noise[:, 2 * n : -2], noise[:, -2:].reshape(len(rows), 4)
        draft = self.drafter.propose(rows, for_draft)
        laws = self.verify(rows, draft)
        draft, laws, verdict = self.judge(rows, draft, laws, coins)
        verdict, inter_times, marks = self.correct(rows, draft, laws, verdict, for_bonus)
        return self.commit(rows, draft, laws, verdict, inter_times, marks)

    def verify(self, rows: Rows, draft: Draft) -> Any:
        """The target's laws, one more than events were drafted, from one pass over the newest committed event and those."""
        tokens = EventTokens(*(torch.cat([a, b], 1) for a, b in zip(rows.pending, draft.tokens, strict=True)))
        laws = self.target.extend(tokens, self.parents and self.parents[: tokens.ids.shape[1]])
        if rows.is_truncated_start:
            elapsed = torch.zeros_like(tokens.times)
            elapsed[:, 0] = rows.elapsed
            laws = laws.truncated(elapsed)
        return laws

    def judge(self, rows: Rows, draft: Draft, laws: Any, coins: Tensor) -> tuple[Draft, Any, Verdict]:
        """The rule's verdict on what each row has drafted, and the steps that it is about: the chain itself."""
        if draft.marks.shape[1] == 0:
            nothing = torch.zeros_like(rows.counts)
            return draft, laws, Verdict(nothing, nothing.bool())
        verdict = self.accept(draft, laws[:, :-1], coins)
        if draft.lengths is not None:
            verdict = verdict._replace(num_accepted=torch.minimum(verdict.num_accepted, draft.lengths))
        return draft, laws, verdict

    def correct(self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, for_bonus: Tensor) -> tuple[Verdict, Tensor, Tensor]:
        """One more event (rows,): the target's own after a fully accepted draft (bonus), else from the adjusted law."""
        bonus_laws = laws[:, -1] if draft.lengths is None else laws.at(draft.lengths)
        is_rejected = rows.active & (verdict.num_accepted < draft.num_drafted)
        num_rejected = int(is_rejected.sum())
        if num_rejected < len(rows):
            inter_times, marks = bonus_laws.sample(for_bonus[:, :3])
        else:  # no row needs a bonus event
            inter_times, marks = torch.zeros_like(for_bonus[:, 0]), torch.zeros_like(verdict.num_accepted)
        if num_rejected:
            where = is_rejected.nonzero().squeeze(1)
            rejected = Rejected(where, verdict.num_accepted[where], draft, laws)
            num_accepted, inter_times[where], marks[where] = self.adjusted(rejected, verdict, self.noise.attempts)
            verdict = verdict._replace(num_accepted=verdict.num_accepted.index_copy(0, where, num_accepted))
        return verdict, inter_times, marks

    def commit(self, rows: Rows, draft: Draft, laws: Any, verdict: Verdict, inter_times: Tensor, marks: Tensor) -> Tensor:
        """Append the accepted prefix and the new event; roll the caches back to them by length."""
        n = verdict.num_accepted
        last = torch.cat([rows.last_times.unsqueeze(1), draft.times], 1).gather(1, n.unsqueeze(1))
        events = Events(*(
            torch.cat([values, torch.zeros_like(new).unsqueeze(1)], 1).scatter(1, n.unsqueeze(1), new.unsqueeze(1))
            for values, new in (
                (draft.inter_times, inter_times), (draft.times, last.squeeze(1) + inter_times), (draft.marks, marks)
            )
        ))  # fmt: skip
        if self.with_log_probs:
            events = events._replace(log_probs=laws.log_prob(events.inter_times, events.marks))
        self.roll_back(draft, n)
        seen_marks = torch.cat([last_marks(rows, self.num_marks).unsqueeze(1), draft.marks], 1)
        reached_end = rows.commit(events, n + 1)
        self.drafter.commit(draft, n, rows, laws, seen_marks)
        cell = draft.num_drafted * (self.draft_length + 1) + n
        self.accepted_counts.view(-1).index_add_(0, cell, rows.active.long())
        return reached_end

    def roll_back(self, draft: Draft, num_accepted: Tensor) -> None:
        """The target's cache keeps the newest event of before and the accepted ones."""
        self.target.cache.lengths = self.target.cache.lengths - draft.marks.shape[1] + num_accepted


def speculative_addresses(draft_length: int) -> list[int]:
    """What one round needs: three uniforms per drafted event, two coins per test, three uniforms for the bonus event."""
    drafts = [int(address(j, Purpose.DRAFT, draw)) for j in range(draft_length) for draw in range(2)]
    coins = [int(address(j, Purpose.TEST)) for j in range(draft_length)]
    return drafts + coins + [int(address(draft_length, Purpose.TARGET, draw)) for draw in range(2)]
