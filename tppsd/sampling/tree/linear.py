"""The rule `linear` for several candidates: weights that are right on average, repaired where they are negative."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.sampling.noise import Purpose, Streams
from tppsd.sampling.rules import MAX_PROPOSALS, Rejected, more_proposals, proposals_per_row
from tppsd.sampling.tree.candidates import (
    CandidateRule,
    Siblings,
    Step,
    fresh_ratios,
    pick_mean,
    resample_mean,
    sample_with_density_ratio,
)

_INNER = 4  # attempts of an inner loop evaluated together; changes no result


def linear_weights(ratios: Tensor) -> Tensor:
    """Return L_i = max(0, r_i + 1 - mean of the others) / K, (..., K), K >= 2.

    Without the maximum they add up to 1, and E[L_i | x_i] = r_i / K: picking by them would give the target's
    distribution.
    """
    k = ratios.shape[-1]
    others = (ratios.sum(-1, keepdim=True) - ratios) / (k - 1)
    return (ratios + 1 - others).clamp_min(0.0) / k


def pick_linear(siblings: Siblings, uniforms: Tensor) -> Tensor:
    """Pick candidate i with probability L_i / sum L; one candidate by `mean`.

    `reject_picks_linear` may reject the pick.
    """
    if siblings.ratios.shape[-1] == 1:
        return pick_mean(siblings, uniforms)
    cumulative = linear_weights(siblings.ratios).cumsum(-1)
    return (cumulative[..., :-1] < uniforms[:, :1] * cumulative[..., -1:]).sum(-1)


class BernoulliFactory(NamedTuple):
    """Holds picks of n rows and nodes, each accepted or rejected by flips of coins whose odds nobody knows.

    Fields:
        siblings: the candidates.
        ratios: float64 (n,), y of the picked.
        num_turns: float64 (n,), turns before the first coin says accept.
        widths: int64 (n,), K.
        largest: the largest of all widths that there can be.
    """

    siblings: Siblings
    ratios: Tensor
    num_turns: Tensor
    widths: Tensor
    largest: int

    @classmethod
    def of(cls, step: Step) -> BernoulliFactory:
        """Begin with all rows: the number of turns is geometric and drawn at once."""
        siblings, uniforms, picked = step
        y, width = siblings.ratios.gather(-1, picked.unsqueeze(-1)).squeeze(-1), siblings.ratios.shape[1]
        num_turns = (uniforms[:, 1].log() / -torch.log1p(y)).floor()  # infinite at y = 0
        return cls(siblings, y, num_turns, torch.full_like(picked, width), width)

    def select(self, which: Tensor) -> BernoulliFactory:
        """Select some of the picks."""
        ratios, num_turns, widths = (values[which] for values in (self.ratios, self.num_turns, self.widths))
        return BernoulliFactory(self.siblings.select(which), ratios, num_turns, widths, self.largest)

    @staticmethod
    def cat(parts: list[BernoulliFactory]) -> BernoulliFactory:
        """Join the picks of several steps."""
        ratios, num_turns, widths = (torch.cat(values) for values in list(zip(*parts, strict=True))[1:4])
        return BernoulliFactory(
            Siblings.cat([part.siblings for part in parts]), ratios, num_turns, widths, max(p.largest for p in parts)
        )

    def turns(self, noise: Streams, first: int, num: int) -> tuple[Tensor, Tensor]:
        """Play turns first..first+num-1 of those that there are.

        Returns:
            Two bool (n,): one of the turns rejects all; the odds of one of them are a number.
        """
        num_fresh = self.largest - 2
        wanted = [(Purpose.TRIAL, 2), (Purpose.TRIAL_COIN, 1), (Purpose.TRIAL_DRAFT, 2 * num_fresh)]
        target, draft = self.siblings.distributions()
        turns = first + torch.arange(num, device=self.widths.device)
        uniforms = noise.loop(self.siblings.rows, self.siblings.positions, wanted, turns.unsqueeze(0))
        mean = sample_with_density_ratio(target.unsqueeze(1), draft.unsqueeze(1), uniforms)[2]
        if num_fresh:
            others = (self.widths - 1).view(-1, 1, 1)
            fresh = fresh_ratios(target, draft, uniforms[..., 6:])
            fresh = torch.where(
                torch.arange(1, num_fresh + 1, device=fresh.device) < others, fresh, 0.0
            )  # K - 2 of them
            mean = (mean + fresh.sum(-1)) / others.squeeze(2)
        rejects = uniforms[..., 4] < 1 - (1 + self.ratios.unsqueeze(1)) / mean
        return (rejects & (turns < self.num_turns.unsqueeze(1))).any(1), ~torch.isnan(mean).all(1)


def reject_picks_linear(steps: list[Step], noise: Streams) -> tuple[Tensor, Tensor]:
    """Accept a pick with probability r_i / (K E[L_i | x_i]), by a two-coin Bernoulli factory.

    With y = r_i, loop { with probability y / (1 + y) accept; draw x from the target and K - 2 from the draft, M = the
    mean of their r; with probability max(0, 1 - (1 + y) / M) reject all }. Half of the picks need no turn. Source:
    Goncalves, Latuszynski and Roberts, 2017.
    """
    parts = [BernoulliFactory.of(step) for step in steps if step.siblings.ratios.shape[-1] > 1]
    if not parts:  # nobody had a choice
        return noise.cursors.new_zeros(0), noise.cursors.new_zeros(0)
    factory = BernoulliFactory.cat([part.select((part.num_turns > 0).nonzero().squeeze(1)) for part in parts])
    which = _some_turn_rejects(factory, noise).nonzero().squeeze(1)
    return factory.siblings.rows[which], factory.siblings.positions[which]


def _some_turn_rejects(factory: BernoulliFactory, noise: Streams) -> Tensor:
    """Play all turns and say which picks one of them rejects, bool (n,)."""
    rejected = torch.zeros_like(factory.widths, dtype=torch.bool)
    waiting, first, num = torch.arange(len(rejected), device=rejected.device), 0, _INNER
    while len(waiting):
        rejected[waiting], is_number = factory.select(waiting).turns(noise, first, num)
        first += num
        if first > MAX_PROPOSALS or not is_number.all():
            raise RuntimeError(f"no turn of {first} ended a loop: target and draft distributions are not densities")
        waiting = waiting[~rejected[waiting] & (factory.num_turns[waiting] > first)]
        num = more_proposals(num, len(waiting))
    return rejected


def resample_linear(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
    """Draw what follows when all candidates are rejected: what picking lost.

    repeat { x_1 from the target; loop { x_2..x_K from the draft; with probability K L_1 / (1 + r_1) leave it }; with
    probability 1 - 1 / sum L return x_1 } has the density target E[L_1 (1 - 1 / sum L) | x_1] / E[L_1 | x_1].
    """
    if num_candidates == 1:
        return resample_mean(rejected, 1, noise)
    inter_times, marks = rejected.events()
    waiting = torch.arange(len(rejected.rows), device=rejected.rows.device)
    first, num = 0, proposals_per_row(len(waiting) * num_candidates * _INNER)
    while len(waiting):
        attempts = LinearAttempts(rejected.select(waiting), num_candidates, noise, first, num)
        attempts.decide()
        found, tau, k = attempts.first_returned()
        inter_times[waiting[found]], marks[waiting[found]] = tau[found], k[found]
        waiting, first = waiting[~found], first + num
        num = more_proposals(num, len(waiting) * num_candidates * _INNER)
        if first > MAX_PROPOSALS:
            raise RuntimeError(f"no proposal of {first} was kept: target and draft distributions are not densities")
    return inter_times, marks


class LinearAttempts:
    """Makes attempts first..first+num-1 of the outer loop of `resample_linear`, for n rows.

    Attributes:
        stopped: bool (n, num), the inner loop was left.
        returned: bool (n, num), and x_1 is returned.
    """

    def __init__(self, rejected: Rejected, num_candidates: int, noise: Streams, first: int, num: int) -> None:
        self.rejected, self.num_candidates, self.noise = rejected, num_candidates, noise
        self.outer = first + torch.arange(num, device=rejected.rows.device).unsqueeze(0)
        uniforms = noise.loop(rejected.rows, rejected.positions, [(Purpose.PROPOSAL, 2)], 0, self.outer)
        target, draft = (distribution.unsqueeze(1) for distribution in rejected.distributions())
        self.inter_times, self.marks, self.ratios = sample_with_density_ratio(target, draft, uniforms)

    def begin(self, num_turns: int) -> None:
        """Play the first turns of every inner loop."""
        self.stopped, self.returned = self._turns(self.rejected, self.ratios, self.outer, 0, num_turns)

    def decide(self) -> None:
        """Play as many turns as it takes, but for what comes after an x_1 that is returned."""
        self.begin(_INNER)
        first, num, outer = _INNER, _INNER, self.outer.expand_as(self.stopped)
        while True:
            rows, at = (~self.stopped & (self.returned.cumsum(1) == 0)).nonzero(as_tuple=True)
            if not len(rows):
                return
            ratios = self.ratios[rows, at]
            if first > MAX_PROPOSALS or torch.isnan(ratios).any():
                raise RuntimeError(f"no turn of {first} ended a loop: target and draft distributions are not densities")
            ended = self._turns(
                self.rejected.select(rows), ratios.unsqueeze(1), outer[rows, at].unsqueeze(1), first, num
            )
            self.stopped[rows, at], self.returned[rows, at] = (values.squeeze(1) for values in ended)
            first += num
            num = more_proposals(num, len(rows) * self.num_candidates, largest=1024)

    def first_returned(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (bool found, inter_times, marks), (n,): found where no attempt before it is undecided."""
        goes_on = self.stopped & ~self.returned
        at = (~goes_on).long().argmax(1, keepdim=True)
        found, inter_times, marks = (x.gather(1, at).squeeze(1) for x in (self.returned, self.inter_times, self.marks))
        return found, inter_times, marks

    def _turns(self, rejected: Rejected, ratios: Tensor, outer: Tensor, first: int, num: int) -> tuple[Tensor, Tensor]:
        """Play turns first..first+num-1 of the inner loops of attempts `outer`, (n or 1, attempts).

        Their x_1 has `ratios` (n, attempts). Returns (stopped, returned).
        """
        wanted = [(Purpose.STOP_COIN, 1), (Purpose.FRESH_DRAFT, 2 * (self.num_candidates - 1))]
        turns = first + torch.arange(num, device=outer.device).expand(*outer.shape, -1)
        uniforms = self.noise.loop(rejected.rows, rejected.positions, wanted, turns, outer.unsqueeze(2))
        y = ratios.unsqueeze(2).expand(*ratios.shape, num)
        weights = linear_weights(
            torch.cat([y.unsqueeze(3), fresh_ratios(*rejected.distributions(), uniforms[..., 2:])], 3)
        )
        stops = uniforms[..., 0] * (1 + y) < self.num_candidates * weights[..., 0]
        returns = uniforms[..., 1] < 1 - 1 / weights.sum(-1)
        which, stopped = stops.long().argmax(2, keepdim=True), stops.any(2)
        return stopped, stopped & returns.gather(2, which).squeeze(2)


LINEAR = CandidateRule(pick_linear, resample_linear, lambda num_candidates: 1, reject_picks_linear)
