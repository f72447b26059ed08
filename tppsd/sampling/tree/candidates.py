"""Several candidates per step: what their rules share, and the rule `mean`.

K candidates x_1..x_K are i.i.d. from the draft's distribution and r = g_T f_T / (g_D f_D), so that E_draft[r] = 1 (or
less, where the draft does not cover the target). Each rule keeps the target's distribution exactly. An r beyond 1e150
counts as infinite, which every formula below takes as its limit. Source of the setting: MCSD (Yang et al., arXiv
    2401.06706), whose own rule is in recursive.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.distribution import log_density_ratio, sample_with_ratio
from tppsd.models.protocol import DraftDistribution, EventDistribution
from tppsd.sampling.noise import Purpose, Streams
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

    def uniforms_of(rejected: Rejected, noise: Streams, first: int, num: int) -> Tensor:
        wanted = [(Purpose.PROPOSAL, 2), (Purpose.PROPOSAL_COIN, 1), (Purpose.FRESH_DRAFT, 2 * (k - 1))]
        attempts = first + torch.arange(num, device=rejected.rows.device).unsqueeze(0)
        return noise.loop(rejected.rows, rejected.positions, wanted, attempts)

    def propose(target: DraftDistribution, draft: DraftDistribution, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tau, marks, total = sample_with_density_ratio(target, draft, uniforms)
        if k > 1:
            total = total + fresh_ratios(target[:, 0], draft[:, 0], uniforms[..., 6:]).sum(-1)
        return tau, marks, (total / k).log()

    return reject_until_kept(rejected, noise, propose, uniforms_of=uniforms_of)


MEAN = CandidateRule(pick_mean, resample_mean, lambda num_candidates: 1)
