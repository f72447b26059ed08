"""Recursive rejection sampling, the rule of MCSD (Yang et al., arXiv 2401.06706, section 4.2), by quadrature.

t_1 = target; candidate x_j is accepted with probability min(1, t_j / draft); t_{j+1} = norm(max(0, t_j - draft)).
Unrolled,

    t_j = max(0, target - c_j draft) / P_j,   c_1 = 0, P_1 = 1, c_{j+1} = c_j + P_j, P_{j+1} = Q(c_{j+1}),

with Q(c) the integral of max(0, target - c draft): one number per candidate is all that the recursion needs. The rule
is the reference of the paper, not the default: `linear` needs no integral and accepts more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tppsd.models.distribution import sample_with_ratio
from tppsd.models.protocol import DraftDistribution, EventDistribution
from tppsd.sampling.noise import Streams
from tppsd.sampling.rules import Rejected, reject_until_kept
from tppsd.sampling.tree.candidates import CandidateRule, Siblings

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
