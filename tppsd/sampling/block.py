"""Block Verification (Sun et al., arXiv 2403.10444): the accepted length is decided for the whole draft, not event by event.

P_0 = 1, P_i = min(1, P_{i-1} r_i) with r_i = g_T f_T / (g_D f_D) at the i-th drafted event. The accepted length is the largest i
whose own trial succeeds: i = draft_length with probability P_i (a bonus event follows), any smaller i with probability

    A_i / (A_i + 1 - P_i),   A_i = P_i E_{X ~ target}[(1 - 1 / (P_i r(X)))_+]   at the law that follows prefix i.

A_i is an integral. A race has the same odds without it: repeat { with probability 1 - P_i fail; draw X from the target's law
after prefix i; with probability (1 - 1 / (P_i r(X)))_+ succeed }, and the X of the success is the event that follows the prefix.
At i = 0 nothing can fail. Never fewer events per round on average than the rule `joint`, from the same state and draft.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tppsd.models.law import sample_with_ratio
from tppsd.sampling.drafters import Draft
from tppsd.sampling.noise import Purpose
from tppsd.sampling.rules import MAX_PROPOSALS, Attempts, Corrected, Rejected, Verdict, log_ratio, proposals_per_row

_OPEN, _FAILED, _SUCCEEDED = 0, 1, 2


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

    The races of all positions start together: with few rows that costs little more than one of them. Those still open after their
    first attempts go on one position at a time, from the right.
    """
    assert verdict.log_block is not None
    num_rejected, longest = len(rejected.rows), int(rejected.positions.max()) + 1
    log_block = torch.cat([torch.zeros_like(verdict.log_block[:, :1]), verdict.log_block], 1)[rejected.rows]
    positions = torch.arange(longest, device=rejected.rows.device)
    outcomes = torch.where(positions <= rejected.positions.unsqueeze(1), _OPEN, _FAILED)
    tried = torch.zeros_like(outcomes)
    inter_times = verdict.log_block.new_zeros(outcomes.shape)
    marks = torch.zeros_like(outcomes)
    where, at = (outcomes == _OPEN).nonzero(as_tuple=True)
    num = proposals_per_row(len(where), largest=16)
    while len(where):
        race = Rejected(rejected.rows[where], at, rejected.draft, rejected.target)
        outcome, tau, k = _race(race, log_block[where, at], tried[where, at], num, attempts)
        outcomes[where, at], inter_times[where, at], marks[where, at] = outcome, tau, k
        tried[where, at] += num
        num_accepted = torch.where(outcomes != _FAILED, positions, -1).amax(1)
        where = (outcomes.gather(1, num_accepted.unsqueeze(1)).squeeze(1) == _OPEN).nonzero().squeeze(1)
        at = num_accepted[where]
        num = min(4 * num, proposals_per_row(len(where), largest=4096))
        if int(tried.max()) > MAX_PROPOSALS:
            raise RuntimeError(f"no race of {MAX_PROPOSALS} attempts ended: target and draft laws are not densities")
    rows = torch.arange(num_rejected, device=positions.device)
    return Corrected(num_accepted, inter_times[rows, num_accepted], marks[rows, num_accepted])


def _race(race: Rejected, log_block: Tensor, first: Tensor, num: int, attempts: Attempts) -> tuple[Tensor, Tensor, Tensor]:
    """(outcome, inter_time, mark), each (n,), of attempts first..first+num-1 at every position."""
    uniforms = attempts(race.rows, race.positions, Purpose.PROPOSAL, first, num, 2, Purpose.PROPOSAL_COIN)
    target, draft = (law.unsqueeze(1) for law in race.laws())
    tau, marks, ratio = sample_with_ratio(target, draft, uniforms)
    if torch.isnan(ratio).all(1).any():
        raise RuntimeError("target and draft laws are not densities: no attempt of a race has a number for its odds")
    fails = uniforms[..., 5] < -torch.expm1(log_block).unsqueeze(1)  # always where P_i = 0, whatever r
    succeeds = ~fails & (uniforms[..., 4] < -torch.expm1(-(log_block.unsqueeze(1) + ratio)))
    ends = fails | succeeds
    which = ends.long().argmax(1, keepdim=True)
    outcome = torch.where(succeeds.gather(1, which), _SUCCEEDED, torch.where(fails.gather(1, which), _FAILED, _OPEN))
    return outcome.squeeze(1), tau.gather(1, which).squeeze(1), marks.gather(1, which).squeeze(1)
