"""Rules for several candidates per step, without integrals, and the adjusted laws that follow when all are rejected.

K candidates x_1..x_K are i.i.d. from the draft's law and r = g_T f_T / (g_D f_D), so that E_draft[r] = 1 (or less, where the
draft does not cover the target). Each rule keeps the target's law exactly. An r beyond 1e150 counts as infinite, which every
formula below takes as its limit. Source of the setting: MCSD (Yang et al., arXiv 2401.06706), whose own rule is in recursive.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.models.law import log_density_ratio, sample_with_ratio
from tppsd.sampling.noise import Purpose, RowNoise
from tppsd.sampling.rules import MAX_PROPOSALS, Rejected, proposals_per_row, reject_until_kept

LARGEST_LOG_RATIO = 345.0  # e^345 = 1e150
_INNER = 4  # attempts of an inner loop evaluated together; changes no result


class Siblings(NamedTuple):
    """The candidates that follow one node of each of n rows.

    Fields: rows, positions int64 (n,): rows in flight and depth; ratios float64 (n, K); target, draft: laws of all rows and where
    among them, int64 (n,), those after the node are.
    """

    rows: Tensor
    positions: Tensor
    ratios: Tensor
    target: tuple[Any, Tensor]
    draft: tuple[Any, Tensor]

    def select(self, which: Tensor) -> Siblings:
        laws = [(laws, at[which]) for laws, at in (self.target, self.draft)]
        return Siblings(self.rows[which], self.positions[which], self.ratios[which], laws[0], laws[1])

    @staticmethod
    def cat(parts: list[Siblings]) -> Siblings:
        """After nodes of several depths; ratios of different numbers of siblings are left out."""
        rows, positions, target, draft = (
            torch.cat(values) for values in zip(*((p.rows, p.positions, p.target[1], p.draft[1]) for p in parts), strict=True)
        )
        first = parts[0]
        return Siblings(rows, positions, first.ratios[:0], (first.target[0], target), (first.draft[0], draft))

    def laws(self, which: Tensor) -> tuple[Any, Any]:
        """Of target and draft after the nodes `which`, batch shape (len(which),)."""
        rows = self.rows[which]
        return self.target[0][rows, self.target[1][which]], self.draft[0][rows, self.draft[1][which]]


class Step(NamedTuple):
    """What was decided after one node of each of n rows: the siblings, the coins float64 (n, 2 num_coins(K)), and the number of
    the candidate that was picked, int64 (n,), or K: none."""

    siblings: Siblings
    coins: Tensor
    picked: Tensor


class CandidateRule(NamedTuple):
    """pick: (siblings, coins) -> Step.picked.
    adjusted: (rejected, K, noise) -> (inter_times, marks) of what follows when all are rejected, (n,).
    num_coins: K -> pairs of uniforms that `pick` and `doubt` need.
    doubt: (steps along the picked path, noise) -> (rows, positions) whose pick is rejected after all, with its siblings; None: no
    pick is. The steps do not wait for each other's doubts, so that one loop serves them all."""

    pick: Callable[[Siblings, Tensor], Tensor]
    adjusted: Callable[[Rejected, int, RowNoise], tuple[Tensor, Tensor]]
    num_coins: Callable[[int], int]
    doubt: Callable[[list[Step], RowNoise], tuple[Tensor, Tensor]] | None = None


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """r, of which sums and squares are still numbers."""
    return log_ratio.clamp_max(LARGEST_LOG_RATIO).exp()


def density_ratio(target: Any, draft: Any, inter_times: Tensor, marks: Tensor) -> Tensor:
    """r at the given events."""
    return bounded_exp(log_density_ratio(target, draft, inter_times, marks))


def sample_with_density_ratio(target: Any, draft: Any, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(inter_times, marks, r) of draws from the target."""
    inter_times, marks, delta = sample_with_ratio(target, draft, uniforms)
    return inter_times, marks, bounded_exp(delta)


def fresh_ratios(target: Any, draft: Any, uniforms: Tensor) -> Tensor:
    """r of fresh draws from the draft: laws (n,), uniforms (n, *attempts, 4 draws) -> (n, *attempts, draws)."""
    for _ in uniforms.shape[1:]:
        target, draft = target.unsqueeze(1), draft.unsqueeze(1)
    return density_ratio(target, draft, *draft.sample(uniforms.unflatten(-1, (-1, 4))[..., :3]))


# --- mean: one draw, the oracle of the others ---------------------------------------------------------------------


def pick_mean(siblings: Siblings, coins: Tensor) -> Tensor:
    """Candidate i with probability r_i / max(K, sum r), none with the rest. K = 1 is the rule `joint`."""
    total = siblings.ratios.sum(-1, keepdim=True).clamp_min(siblings.ratios.shape[-1])
    return (siblings.ratios.cumsum(-1) < coins[:, :1] * total).sum(-1)


def adjusted_mean(rejected: Rejected, num_candidates: int, noise: RowNoise) -> tuple[Tensor, Tensor]:
    """x from the target, kept with probability 1 - K / max(K, r(x) + sum of r over K - 1 fresh draws from the draft)."""
    k = num_candidates

    def attempts(rows: Tensor, positions: Tensor, proposal: Purpose, first: int, num: int, draws: int, coin: Purpose) -> Tensor:
        wanted = [(proposal, draws), (coin, 1), (Purpose.FRESH_DRAFT, 2 * (k - 1))]
        return noise.loop(rows, positions, wanted, first + torch.arange(num, device=rows.device).unsqueeze(0))

    def propose(target: Any, draft: Any, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau, marks, total = sample_with_density_ratio(target, draft, uniforms)
        if k > 1:
            total = total + fresh_ratios(target[:, 0], draft[:, 0], uniforms[..., 6:]).sum(-1)
        return tau, marks, (total / k).log()

    return reject_until_kept(rejected, attempts, propose)


# --- linear: weights that are right on average, repaired where they are negative ---------------------------------


def linear_weights(ratios: Tensor) -> Tensor:
    """L_i = max(0, r_i + 1 - mean of the others) / K, (..., K), K >= 2.

    Without the maximum they add up to 1, and E[L_i | x_i] = r_i / K: picking by them would give the target's law.
    """
    k = ratios.shape[-1]
    others = (ratios.sum(-1, keepdim=True) - ratios) / (k - 1)
    return (ratios + 1 - others).clamp_min(0.0) / k


def pick_linear(siblings: Siblings, coins: Tensor) -> Tensor:
    """Candidate i with probability L_i / sum L, open to doubt; one candidate by `mean`, for good."""
    if siblings.ratios.shape[-1] == 1:
        return pick_mean(siblings, coins)
    cumulative = linear_weights(siblings.ratios).cumsum(-1)
    return (cumulative[..., :-1] < coins[:, :1] * cumulative[..., -1:]).sum(-1)


def doubt_linear(steps: list[Step], noise: RowNoise) -> tuple[Tensor, Tensor]:
    """Accept a pick with probability r_i / (K E[L_i | x_i]), by a two-coin Bernoulli factory (Goncalves, Latuszynski and Roberts,
    2017): with y = r_i, loop { with probability y / (1 + y) accept; draw x from the target and K - 2 from the draft, M = the mean
    of their r; with probability max(0, 1 - (1 + y) / M) reject all }.

    The number of turns before the first coin says accept is geometric and drawn at once: half of the picks need no turn.
    """
    parts = []
    for siblings, coins, picked in steps:
        if siblings.ratios.shape[-1] > 1:
            y = siblings.ratios.gather(-1, picked.unsqueeze(-1)).squeeze(-1)
            num_turns = (coins[:, 1].log() / -torch.log1p(y)).floor()  # infinite at y = 0
            which = (num_turns > 0).nonzero().squeeze(1)
            parts.append((siblings.select(which), y[which], num_turns[which], torch.full_like(which, siblings.ratios.shape[-1])))
    if not parts:  # nobody had a choice
        return noise.cursors.new_zeros(0), noise.cursors.new_zeros(0)
    doubted = Siblings.cat([part[0] for part in parts])
    y, num_turns, widths = (torch.cat(values) for values in list(zip(*parts, strict=True))[1:])
    which = _some_turn_rejects(doubted, y, num_turns, widths, noise).nonzero().squeeze(1)
    return doubted.rows[which], doubted.positions[which]


def _some_turn_rejects(siblings: Siblings, y: Tensor, num_turns: Tensor, widths: Tensor, noise: RowNoise) -> Tensor:
    """bool (n,): one of the first `num_turns` turns of the loop rejects all of the `widths` candidates."""
    num_fresh = int(widths.max()) - 2 if len(widths) else 0
    wanted = [(Purpose.TRIAL, 2), (Purpose.TRIAL_COIN, 1), (Purpose.TRIAL_DRAFT, 2 * num_fresh)]
    rejected = torch.zeros_like(num_turns, dtype=torch.bool)
    waiting, first, num = torch.arange(len(y), device=y.device), 0, _INNER
    while len(waiting):
        target, draft = siblings.laws(waiting)
        turns = first + torch.arange(num, device=waiting.device)
        uniforms = noise.loop(siblings.rows[waiting], siblings.positions[waiting], wanted, turns.unsqueeze(0))
        mean = sample_with_density_ratio(target.unsqueeze(1), draft.unsqueeze(1), uniforms)[2]
        if num_fresh:
            others = (widths[waiting] - 1).view(-1, 1, 1)
            fresh = fresh_ratios(target, draft, uniforms[..., 6:])
            fresh = torch.where(torch.arange(1, num_fresh + 1, device=fresh.device) < others, fresh, 0.0)  # K - 2 of them
            mean = (mean + fresh.sum(-1)) / others.squeeze(2)
        rejects = uniforms[..., 4] < 1 - (1 + y[waiting].unsqueeze(1)) / mean
        rejected[waiting] = (rejects & (turns < num_turns[waiting].unsqueeze(1))).any(1)
        first += num
        if first > MAX_PROPOSALS or torch.isnan(mean).all(1).any():
            raise RuntimeError(f"no turn of {first} ended a loop: target and draft laws are not densities")
        waiting = waiting[~rejected[waiting] & (num_turns[waiting] > first)]
        num = min(4 * num, proposals_per_row(len(waiting), largest=4096))
    return rejected


def adjusted_linear(rejected: Rejected, num_candidates: int, noise: RowNoise) -> tuple[Tensor, Tensor]:
    """repeat { x_1 from the target; loop { x_2..x_K from the draft; with probability K L_1 / (1 + r_1) leave it } ; with
    probability 1 - 1 / sum L return x_1 }: density target E[L_1 (1 - 1 / sum L) | x_1] / E[L_1 | x_1], what picking lost."""
    if num_candidates == 1:
        return adjusted_mean(rejected, 1, noise)
    inter_times, marks = rejected.events()
    waiting = torch.arange(len(rejected.rows), device=rejected.rows.device)
    outer, inner = torch.zeros_like(waiting), torch.zeros_like(waiting)  # the next attempt of either loop
    while len(waiting):
        part = rejected.select(waiting)
        num = proposals_per_row(len(waiting) * num_candidates * _INNER)
        found, open_at, tau, k = _linear_attempts(part, num_candidates, outer[waiting], inner[waiting], num, noise)
        inter_times[waiting[found]], marks[waiting[found]] = tau[found], k[found]
        inner[waiting] = torch.where(open_at == 0, inner[waiting], 0) + torch.where(open_at < num, _INNER, 0)
        outer[waiting] += open_at
        if int(outer.max()) > MAX_PROPOSALS:
            raise RuntimeError(f"no proposal of {MAX_PROPOSALS} was kept: target and draft laws are not densities")
        waiting = waiting[~found]
    return inter_times, marks


def _linear_attempts(
    rejected: Rejected, num_candidates: int, outer: Tensor, inner: Tensor, num: int, noise: RowNoise
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(found, open_at, inter_time, mark), each (n,), of `num` outer attempts from `outer` on, the first at its inner `inner`.

    `found`: an attempt returned its x before any was left undecided; `open_at`: the undecided one, or `num`: all are over.
    """
    target, draft = rejected.laws()
    attempts = outer.unsqueeze(1) + torch.arange(num, device=outer.device)
    turns = torch.arange(_INNER, device=outer.device).expand(*attempts.shape, -1).clone()
    turns[:, 0] += inner.unsqueeze(1)
    rows, positions = rejected.rows, rejected.positions
    for_x = noise.loop(rows, positions, [(Purpose.PROPOSAL, 2)], 0, attempts)
    wanted = [(Purpose.STOP_COIN, 1), (Purpose.FRESH_DRAFT, 2 * (num_candidates - 1))]
    uniforms = noise.loop(rows, positions, wanted, turns, attempts.unsqueeze(2))
    tau, marks, ratios = sample_with_density_ratio(target.unsqueeze(1), draft.unsqueeze(1), for_x)
    y = ratios.unsqueeze(2).expand(turns.shape)
    weights = linear_weights(torch.cat([y.unsqueeze(3), fresh_ratios(target, draft, uniforms[..., 2:])], 3))
    stops = uniforms[..., 0] * (1 + y) < num_candidates * weights[..., 0]
    which = stops.long().argmax(2, keepdim=True)
    returns = (uniforms[..., 1] < 1 - 1 / weights.sum(-1)).gather(2, which).squeeze(2)
    stopped = stops.any(2)
    goes_on = stopped & ~returns
    open_at = torch.where(goes_on.all(1), num, (~goes_on).long().argmax(1))
    at = open_at.clamp_max(num - 1).unsqueeze(1)
    found = (open_at < num) & stopped.gather(1, at).squeeze(1)
    return found, open_at, tau.gather(1, at).squeeze(1), marks.gather(1, at).squeeze(1)


MEAN = CandidateRule(pick_mean, adjusted_mean, lambda num_candidates: 1)
LINEAR = CandidateRule(pick_linear, adjusted_linear, lambda num_candidates: 1, doubt_linear)
