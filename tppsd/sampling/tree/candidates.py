"""Several candidates per step: what their rules share, and the rules `mean` and `rrs`.

K candidates x_1..x_K are i.i.d. from the draft's distribution and r = g_T f_T / (g_D f_D), so that E_draft[r] = 1 (or
less, where the draft does not cover the target). Each rule keeps the target's distribution exactly. An r beyond 1e150
counts as infinite, which every formula below takes as its limit. Source of the setting: MCSD (Yang et al., arXiv
2401.06706), whose own rule is `rrs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.distribution import log_density_ratio, sample_with_ratio
from tppsd.models.protocol import DraftDistribution, EventDistribution
from tppsd.sampling.noise import Streams
from tppsd.sampling.rules import Rejected, reject_until_kept

LARGEST_LOG_RATIO = 345.0  # e^345 = 1e150


class Siblings(NamedTuple):
    """Holds the candidates that follow one node of each of n rows.

    Fields:
        rows, positions: int64 (n,), rows of the batch and depth.
        ratios: float64 (n, K).
        target, draft: distributions of all rows, and int64 (n,) where among them those after the node are.
    """

    rows: Tensor
    positions: Tensor
    ratios: Tensor
    target: tuple[EventDistribution, Tensor]
    draft: tuple[DraftDistribution, Tensor]

    def select(self, which: Tensor) -> Siblings:
        """Select some of the rows."""
        (target, in_target), (draft, in_draft) = self.target, self.draft
        own = self.rows[which], self.positions[which], self.ratios[which]
        return Siblings(*own, (target, in_target[which]), (draft, in_draft[which]))

    @staticmethod
    def cat(parts: list[Siblings]) -> Siblings:
        """Join those after nodes of several depths; ratios of different numbers of siblings are left out."""
        rows, positions, target, draft = (
            torch.cat(values)
            for values in zip(*((p.rows, p.positions, p.target[1], p.draft[1]) for p in parts), strict=True)
        )
        first = parts[0]
        return Siblings(
            rows, positions, first.ratios.new_zeros(len(rows), 0), (first.target[0], target), (first.draft[0], draft)
        )

    def distributions(self) -> tuple[EventDistribution, DraftDistribution]:
        """Return the distributions of target and draft after the nodes, batch shape (n,)."""
        return self.target[0][self.rows, self.target[1]], self.draft[0][self.rows, self.draft[1]]


class Step(NamedTuple):
    """Says what was decided after one node of each of n rows.

    Fields:
        siblings: the candidates.
        uniforms: float64 (n, 2 num_uniforms(K)).
        picked: int64 (n,), the number of the candidate, or K: none.
    """

    siblings: Siblings
    uniforms: Tensor
    picked: Tensor


class CandidateRule(NamedTuple):
    """Says how one of several candidates is picked.

    Fields:
        pick: (siblings, uniforms) -> Step.picked.
        resample: (rejected, K, noise) -> (inter_times, marks) of what follows when all are rejected, (n,).
        num_uniforms: K -> pairs of uniforms that `pick` and `reject_picks` need.
        reject_picks: (steps along the picked path, noise) -> (rows, positions) whose pick is rejected after all, with
            its siblings; None: no pick is. The steps do not wait for each other, so that one loop serves them all.
    """

    pick: Callable[[Siblings, Tensor], Tensor]
    resample: Callable[[Rejected, int, Streams], tuple[Tensor, Tensor]]
    num_uniforms: Callable[[int], int]
    reject_picks: Callable[[list[Step], Streams], tuple[Tensor, Tensor]] | None = None


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """Return r = exp(log_ratio), bounded so that sums and squares of it are still numbers."""
    return log_ratio.clamp_max(LARGEST_LOG_RATIO).exp()


def density_ratio(target: DraftDistribution, draft: DraftDistribution, inter_times: Tensor, marks: Tensor) -> Tensor:
    """Return r at the given events."""
    return bounded_exp(log_density_ratio(target, draft, inter_times, marks))


def sample_with_density_ratio(
    target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw from the target and return (inter_times, marks, r)."""
    inter_times, marks, delta = sample_with_ratio(target, draft, uniforms)
    return inter_times, marks, bounded_exp(delta)


def fresh_ratios(target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor) -> Tensor:
    """Return r of fresh draws from the draft: (n,), uniforms (n, *attempts, 4 draws) -> (n, *attempts, draws)."""
    for _ in uniforms.shape[1:]:
        target, draft = target.unsqueeze(1), draft.unsqueeze(1)
    return density_ratio(target, draft, *draft.sample(uniforms.unflatten(-1, (-1, 4))[..., :3]))


# --- mean: one draw, the oracle of the others ---------------------------------------------------------------------


def pick_mean(siblings: Siblings, uniforms: Tensor) -> Tensor:
    """Pick candidate i with probability r_i / max(K, sum r), none with the rest; K = 1 is the rule `joint`."""
    total = siblings.ratios.sum(-1, keepdim=True).clamp_min(siblings.ratios.shape[-1])
    return (siblings.ratios.cumsum(-1) < uniforms[:, :1] * total).sum(-1)


def resample_mean(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
    """Draw x from the target, and keep it with probability 1 - K / max(K, r(x) + sum of r).

    The sum is over K - 1 fresh draws from the draft.
    """
    k = num_candidates

    def propose(target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau, marks, total = sample_with_density_ratio(target, draft, uniforms)
        if k > 1:
            total = total + fresh_ratios(target[:, 0], draft[:, 0], uniforms[..., 6:]).sum(-1)
        return tau, marks, (total / k).log()

    return reject_until_kept(rejected, noise, propose, num_fresh=k - 1)


MEAN = CandidateRule(pick_mean, resample_mean, lambda num_candidates: 1)


TOLERANCE = 1e-4  # of Q: twice as many knots change it by less, which leaves an error of about a third of that
_FIRST_KNOTS, _LAST_LEVELS = 512, 8192  # knots in all to begin with, and at most per component of a mixture
_EDGE = 6.5  # standard deviations: a share of 4e-11 of the target lies beyond the knots, and can add no more than that
_AT_ONCE = 100_000  # numbers of a density held at once: they stay in a processor's own cache


def pick_recursive(siblings: Siblings, uniforms: Tensor) -> Tensor:
    """Try one candidate after the other, against what the target has left."""
    k = siblings.ratios.shape[1]
    accepted = uniforms[:, :1] < siblings.ratios[:, :1]
    chosen = torch.where(accepted.squeeze(1), 0, k)
    where = (chosen == k).nonzero().squeeze(1)
    if k > 1 and len(where):
        scales, masses = recursion(*siblings.select(where).distributions(), k)
        later = (siblings.ratios[where] - scales[:, :k]).clamp_min(0.0) / masses[:, :k]
        # nothing is left of the target after this candidate: it can only be rejected by rounding
        passes = ((uniforms[where, :k] < later) | (masses[:, 1:] <= 0)) & (torch.arange(k, device=where.device) > 0)
        chosen[where] = torch.where(passes.any(1), passes.long().argmax(1), k)
    return chosen


def resample_recursive(rejected: Rejected, num_candidates: int, noise: Streams) -> tuple[Tensor, Tensor]:
    """Draw from norm(max(0, target - c_{K+1} draft)).

    Propose from the target, keep with probability 1 - c_{K+1} / r.
    """
    scale = torch.ones_like(rejected.rows, dtype=torch.float64)
    if num_candidates > 1:
        scale = recursion(*rejected.distributions(), num_candidates)[0][:, -1]
    return reject_until_kept(rejected, noise, sample_with_ratio, scale.log())


def recursion(target: EventDistribution, draft: DraftDistribution, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Return (c, P) of candidates 1..K + 1, each float64 (n, K + 1), for distributions of batch shape (n,).

    Trapezoidal rule in log tau, summed over marks. The knots are doubled until neither the target's own integral, which
    is 1, nor any P is off or changes by more than `TOLERANCE`; halving the steps of this rule divides its error by
    four.

    Raises:
        RuntimeError: that takes more than the largest number of knots.
    """
    median = target.inter_time.knots(torch.full((1,), 0.5, dtype=torch.float64))
    (num_components, num_rows), device = median.shape, median.device
    waiting, levels = torch.arange(num_rows, device=device), max(32, _FIRST_KNOTS // num_components)
    scales, masses = torch.zeros(2, num_rows, num_candidates + 1, dtype=torch.float64, device=device)
    while len(waiting):
        if levels > _LAST_LEVELS:
            raise RuntimeError(
                f"rule = 'rrs': the integrals of {len(waiting)} distributions have not settled to {TOLERANCE}"
            )
        settled = []
        for part in waiting.split(max(1, _AT_ONCE // (num_components * levels * max(num_components, 8)))):
            before = masses[part]
            scales[part], masses[part], off = _recursion(target[part], draft[part], num_candidates, levels)
            settled.append(((masses[part] - before).abs().amax(1) < TOLERANCE) & (off < TOLERANCE))
        waiting, levels = waiting[~torch.cat(settled)], 2 * levels
    return scales, masses


def _recursion(
    target: EventDistribution, draft: DraftDistribution, num_candidates: int, num_levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return c and P with so many knots per component, and how far the target's own integral is from 1."""
    z = torch.linspace(-_EDGE, _EDGE, num_levels, dtype=torch.float64)
    x = target.inter_time.knots(torch.special.ndtr(z)).log().sort(0).values  # (knots, n)
    weights = torch.zeros_like(x)
    weights[:-1] += 0.5 * x.diff(dim=0)
    weights[1:] += 0.5 * x.diff(dim=0)
    tau = x.exp()
    of_target, of_draft = (
        (distribution.inter_time.log_prob(tau).unsqueeze(-1) + x.unsqueeze(-1) + distribution.mark_log_probs(tau)).exp()
        for distribution in (target, draft)
    )  # densities of (log tau, k), (knots, n, num_marks)
    off = ((weights * of_target.sum(-1)).sum(0) - 1).abs()
    scales, masses = [torch.zeros_like(x[0])], [torch.ones_like(x[0])]
    for _ in range(num_candidates):
        scales.append(scales[-1] + masses[-1])
        left = (of_target - scales[-1].unsqueeze(-1) * of_draft).clamp_min(0.0).sum(-1)
        masses.append((weights * left).sum(0))
    return torch.stack(scales, 1), torch.stack(masses, 1), off


RECURSIVE = CandidateRule(pick_recursive, resample_recursive, lambda num_candidates: (num_candidates + 1) // 2)
