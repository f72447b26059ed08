"""Block Verification (Sun et al., arXiv 2403.10444): the accepted length is decided for the whole draft, not event by
event.

P_0 = 1, P_i = min(1, P_{i-1} r_i) with r_i = g_T f_T / (g_D f_D) at the i-th drafted event. The accepted length is the
largest i
whose own trial succeeds: i = draft_length with probability P_i (a bonus event follows), any smaller i with probability

    A_i / (A_i + 1 - P_i),   A_i = P_i E_{X ~ target}[(1 - 1 / (P_i r(X)))_+]   at the law that follows prefix i.

A_i is an integral. A race has the same odds without it: repeat { with probability 1 - P_i fail; draw X from the
target's law after prefix i; with probability (1 - 1 / (P_i r(X)))_+ succeed }, and the X of the success is the event
that follows the prefix. At i = 0 nothing can fail. Never fewer events per round on average than the rule `joint`, from
the same state and draft.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.models.law import sample_with_ratio
from tppsd.sampling.drafters import Draft
from tppsd.sampling.noise import Purpose
from tppsd.sampling.rules import (
    MAX_PROPOSALS,
    Attempts,
    Corrected,
    Rejected,
    Rule,
    Verdict,
    log_ratio,
    proposals_per_row,
)

_OPEN, _FAILED, _SUCCEEDED = 0, 1, 2
_FEWEST = 8  # attempts of every race, where all are begun at once


def accept_block(draft: Draft, laws: Any, coins: Tensor) -> Verdict:
    """Accept the whole draft with probability P_draft_length; otherwise leave the length to `adjusted_block`.

    Args:
        laws: the target's at the drafted positions, batch shape (rows, draft_length).
        coins: float64 uniforms (rows, draft_length, 2); the first at a row's last drafted event decides.
    """
    log_block = log_block_probs(draft, laws)
    last = draft.num_drafted.unsqueeze(1) - 1
    accepted = coins[..., 0].gather(1, last.clamp_min(0)).log() <= log_block.gather(1, last.clamp_min(0))
    num_accepted = (last + (accepted | (last < 0)).long()).squeeze(1)
    return Verdict(num_accepted, torch.ones_like(num_accepted, dtype=torch.bool), log_block)


def log_block_probs(draft: Draft, laws: Any) -> Tensor:
    """log P_i, i = 1..draft_length, (rows, draft_length)."""
    log_block, steps = torch.zeros_like(draft.inter_times[:, 0]), []
    for delta in log_ratio(draft, laws).unbind(1):
        log_block = (log_block + delta).clamp_max(0.0)
        steps.append(log_block)
    return torch.stack(steps, 1)


def adjusted_block(rejected: Rejected, verdict: Verdict, attempts: Attempts) -> Corrected:
    """The largest i < draft_length whose race succeeds, and the event that won it.

    The races of all positions start together: with few rows that costs little more than one of them. Those still open
    after their first attempts go on one position at a time, from the right.
    """
    longest = int(rejected.positions.max()) + 1
    log_block = _before_events(rejected, verdict)
    positions = torch.arange(longest, device=rejected.rows.device)
    outcomes = torch.where(positions <= rejected.positions.unsqueeze(1), _OPEN, _FAILED)
    tried = torch.zeros_like(outcomes)
    inter_times = log_block.new_zeros(outcomes.shape)
    marks = torch.zeros_like(outcomes)
    where, at = (outcomes == _OPEN).nonzero(as_tuple=True)
    num = proposals_per_row(len(where), largest=16)
    while len(where):
        race = Rejected(rejected.rows[where], at, rejected.draft, rejected.target)
        outcome, tau, k, is_number = _race(race, log_block[where, at], tried[where, at], num, attempts)
        if not is_number.all():
            raise RuntimeError(
                "target and draft laws are not densities: no attempt of a race has a number for its odds"
            )
        outcomes[where, at], inter_times[where, at], marks[where, at] = outcome, tau, k
        tried[where, at] += num
        num_accepted = torch.where(outcomes != _FAILED, positions, -1).amax(1)
        where = (outcomes.gather(1, num_accepted.unsqueeze(1)).squeeze(1) == _OPEN).nonzero().squeeze(1)
        at = num_accepted[where]
        num = min(4 * num, proposals_per_row(len(where), largest=4096))
        if int(tried.max()) > MAX_PROPOSALS:
            raise RuntimeError(f"no race of {MAX_PROPOSALS} attempts ended: target and draft laws are not densities")
    return _of_positions(num_accepted, inter_times, marks)


def adjusted_block_at_once(
    rejected: Rejected, verdict: Verdict, attempts: Attempts, num: int
) -> tuple[Tensor, Corrected]:
    log_block = _before_events(rejected, verdict)[:, :-1]
    longest = log_block.shape[1]
    positions = torch.arange(longest, device=log_block.device)
    rows, at = rejected.rows.repeat_interleave(longest), positions.repeat(len(log_block))
    race = Rejected(rows, at, rejected.draft, rejected.target)
    num = max(_FEWEST, num // longest)
    ended = _race(race, log_block.flatten(), 0, num, attempts)
    outcomes, inter_times, marks, _ = (values.view(-1, longest) for values in ended)
    outcomes = torch.where(positions <= rejected.positions.unsqueeze(1), outcomes, _FAILED)
    num_accepted = torch.where(outcomes != _FAILED, positions, 0).amax(1)
    is_over = outcomes.gather(1, num_accepted.unsqueeze(1)).squeeze(1) == _SUCCEEDED
    return is_over, _of_positions(num_accepted, inter_times, marks)


def _before_events(rejected: Rejected, verdict: Verdict) -> Tensor:
    """log P_i, i = 0..draft_length, of the rejected rows."""
    assert verdict.log_block is not None
    return torch.cat([torch.zeros_like(verdict.log_block[:, :1]), verdict.log_block], 1)[rejected.rows]


def _of_positions(num_accepted: Tensor, inter_times: Tensor, marks: Tensor) -> Corrected:
    """What won the races (n, positions) of these."""
    at = num_accepted.unsqueeze(1)
    return Corrected(num_accepted, inter_times.gather(1, at).squeeze(1), marks.gather(1, at).squeeze(1))


def _race(
    race: Rejected, log_block: Tensor, first: Tensor | int, num: int, attempts: Attempts
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of attempts first..first+num-1 at every position: outcome, inter_time, mark, and is the odds of any of them a
    number, each (n,)."""
    uniforms = attempts(race.rows, race.positions, Purpose.PROPOSAL, first, num, 2, Purpose.PROPOSAL_COIN)
    target, draft = (law.unsqueeze(1) for law in race.laws())
    tau, marks, ratio = sample_with_ratio(target, draft, uniforms)
    fails = uniforms[..., 5] < -torch.expm1(log_block).unsqueeze(1)  # always where P_i = 0, whatever r
    succeeds = ~fails & (uniforms[..., 4] < -torch.expm1(-(log_block.unsqueeze(1) + ratio)))
    ends = fails | succeeds
    which = ends.long().argmax(1, keepdim=True)
    outcome = torch.where(succeeds.gather(1, which), _SUCCEEDED, torch.where(fails.gather(1, which), _FAILED, _OPEN))
    tau, marks = (values.gather(1, which).squeeze(1) for values in (tau, marks))
    return outcome.squeeze(1), tau, marks, ~torch.isnan(ratio).all(1)


BLOCK = Rule(accept_block, adjusted_block, adjusted_block_at_once)
