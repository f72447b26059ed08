"""Block Verification (Sun et al., arXiv 2403.10444): the accepted length is decided for the whole draft at once.

P_0 = 1, P_i = min(1, P_{i-1} r_i) with r_i = g_T f_T / (g_D f_D) at the i-th drafted event. The accepted length is the
largest i whose own trial succeeds: i = draft_length with probability P_i (a bonus event follows), any smaller i with
probability

    A_i / (A_i + 1 - P_i),   A_i = P_i E_{X ~ target}[(1 - 1 / (P_i r(X)))_+]   at the distribution after prefix i.

A_i is an integral. A race has the same odds without it: repeat { with probability 1 - P_i fail; draw X from the
target's distribution after prefix i; with probability (1 - 1 / (P_i r(X)))_+ succeed }, and the X of the success is the
event that follows the prefix. At i = 0 nothing can fail. Never fewer events per round on average than the rule `joint`,
from the same state and draft.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.distribution import sample_with_ratio
from tppsd.models.protocol import EventDistribution
from tppsd.sampling.drafters.base import Draft
from tppsd.sampling.noise import RowNoise, Streams
from tppsd.sampling.rules import (
    MAX_PROPOSALS,
    Acceptance,
    ChainRule,
    Recovered,
    Rejected,
    RoundUniforms,
    first_uniform,
    log_ratio,
    more_proposals,
    proposal_uniforms,
    proposals_per_row,
)

_OPEN, _FAILED, _SUCCEEDED = 0, 1, 2


class BlockRule(ChainRule):
    """Accepts the whole draft with probability P_draft_length; otherwise races decide how much of it stays."""

    def consume(self, noise: RowNoise, num_events: Tensor, draft_length: int) -> None:
        """Use up the whole window: the rule has looked at the whole draft at once, so rounds start with fresh noise."""
        noise.advance(draft_length + 1, draft_length + 1)

    def accept(
        self, draft: Draft, target: EventDistribution, uniforms: RoundUniforms, running: Tensor, noise: Streams
    ) -> Acceptance:
        """See Rule; num_accepted only says whether all or not all were accepted, the detail is log P_i (rows, n)."""
        log_block = log_block_probs(draft, target[:, :-1])
        last = draft.num_drafted.unsqueeze(1) - 1
        at_last = last.clamp_min(0)
        accepted = first_uniform(draft, uniforms).gather(1, at_last).log() <= log_block.gather(1, at_last)
        return Acceptance(draft, target, (last + (accepted | (last < 0)).long()).squeeze(1), log_block)

    def resample(self, rejected: Rejected, accepted: Acceptance, uniforms: RoundUniforms, noise: Streams) -> Recovered:
        """Find the largest i < draft_length whose race succeeds, and the event that won it.

        The races of all positions start together: with few rows that costs little more than one of them. Those still
        open after their first attempts go on one position at a time, from the right.
        """
        log_block = torch.nn.functional.pad(accepted.detail, (1, 0))[rejected.rows]  # i = 0..draft_length
        positions = torch.arange(int(rejected.positions.max()) + 1, device=rejected.rows.device)
        outcomes = torch.where(positions <= rejected.positions.unsqueeze(1), _OPEN, _FAILED)
        tried = torch.zeros_like(outcomes)
        inter_times, marks = torch.zeros_like(outcomes, dtype=torch.float64), torch.zeros_like(outcomes)
        where, at = (outcomes == _OPEN).nonzero(as_tuple=True)
        num = proposals_per_row(len(where), largest=16)
        while len(where):
            race = Rejected(rejected.rows[where], at, rejected.draft, rejected.target)
            outcome, tau, k = _race(race, log_block[where, at], tried[where, at], num, noise)
            outcomes[where, at], inter_times[where, at], marks[where, at] = outcome, tau, k
            tried[where, at] += num
            num_accepted = torch.where(outcomes != _FAILED, positions, -1).amax(1)
            where = (outcomes.gather(1, num_accepted.unsqueeze(1)).squeeze(1) == _OPEN).nonzero().squeeze(1)
            at = num_accepted[where]
            num = more_proposals(num, len(where))
            if int(tried.max()) > MAX_PROPOSALS:
                raise RuntimeError(f"no race of {MAX_PROPOSALS} attempts ended: target and draft are not densities")
        inter_times, marks = (x.gather(1, num_accepted.unsqueeze(1)).squeeze(1) for x in (inter_times, marks))
        return Recovered(num_accepted, inter_times, marks)


def log_block_probs(draft: Draft, distributions: EventDistribution) -> Tensor:
    """Return log P_i, i = 1..draft_length, (rows, draft_length)."""
    log_block, steps = torch.zeros_like(draft.inter_times[:, 0]), []
    for delta in log_ratio(draft, distributions).unbind(1):
        log_block = (log_block + delta).clamp_max(0.0)
        steps.append(log_block)
    return torch.stack(steps, 1)


def _race(race: Rejected, log_block: Tensor, first: Tensor, num: int, noise: Streams) -> tuple[Tensor, Tensor, Tensor]:
    """Return (outcome, inter_time, mark), each (n,), of attempts first..first+num-1 at every position."""
    uniforms = proposal_uniforms(race, noise, first, num)
    target, draft = (distribution.unsqueeze(1) for distribution in race.distributions())
    tau, marks, ratio = sample_with_ratio(target, draft, uniforms)
    if torch.isnan(ratio).all(1).any():
        raise RuntimeError("target and draft are not densities: no attempt of a race has a number for its odds")
    fails = uniforms[..., 5] < -torch.expm1(log_block).unsqueeze(1)  # always where P_i = 0, whatever r
    succeeds = ~fails & (uniforms[..., 4] < -torch.expm1(-(log_block.unsqueeze(1) + ratio)))
    which = (fails | succeeds).long().argmax(1, keepdim=True)
    outcome = torch.where(succeeds, _SUCCEEDED, torch.where(fails, _FAILED, _OPEN)).gather(1, which)
    inter_times, marks = (values.gather(1, which).squeeze(1) for values in (tau, marks))
    return outcome.squeeze(1), inter_times, marks
