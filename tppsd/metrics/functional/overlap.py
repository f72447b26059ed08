"""The overlap of two distributions of the next event: Kullback-Leibler divergence and total variation.

Both have gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture


class Overlap(NamedTuple):
    """Holds estimates per context, each (*batch,).

    Fields: kl: KL(target || draft) in nats; acceptance: 1 - TV(target, draft), the probability that the `joint` rule
    accepts an event drafted in this context.
    """

    kl: Tensor
    acceptance: Tensor


def overlap(target: NextEventDistribution, draft: NextEventDistribution, uniforms: Tensor) -> Overlap:
    """Estimate both without bias from inter-times of the target, in closed form over the marks.

        KL(target || draft) = E [log g_T(tau) / g_D(tau) + sum_k f_T(k | tau) log f_T(k | tau) / f_D(k | tau)]
        1 - TV(target, draft) = E [sum_k f_T(k | tau) min(1, g_D(tau) f_D(k | tau) / (g_T(tau) f_T(k | tau)))]

    with tau ~ g_T in both. Draw s of S lies in the s-th of S equally probable strata. Gradients reach the draft only.

    Args:
        target, draft: distributions of the same contexts, batch shape (*batch,).
        uniforms: float64 (*batch, num_draws) in (0, 1), independent.
    Source: Leviathan et al. 2023, Theorem 3.5 (acceptance is 1 - TV).

    Example:
        >>> zero = torch.zeros(1, 1, dtype=torch.float64)
        >>> target = NextEventDistribution(LogNormalMixture(zero, zero, zero))
        >>> draft = NextEventDistribution(LogNormalMixture(zero, zero + 0.5, zero))  # shifted by half a deviation
        >>> uniforms = torch.full((1, 1000), 0.5, dtype=torch.float64)
        >>> found = overlap(target, draft, uniforms)
        >>> round(float(found.kl), 3), round(float(found.acceptance), 3)  # exactly 1/8 and 2 Phi(-1/4)
        (0.125, 0.803)
    """
    with torch.no_grad():
        inter_times = stratified_inter_times(target.inter_time, uniforms)
        target = target.unsqueeze(uniforms.dim() - 1)  # (*batch, 1), against (*batch, num_draws)
        target_time = target.inter_time.log_prob(inter_times).unsqueeze(-1)  # (*batch, num_draws, 1)
        target_mark = target.mark_log_probs(inter_times)  # (*batch, num_draws, num_marks)
    draft = draft.unsqueeze(uniforms.dim() - 1)
    log_ratio = draft.inter_time.log_prob(inter_times).unsqueeze(-1) - target_time
    log_ratio = log_ratio + (draft.mark_log_probs(inter_times) - target_mark)  # draft / target, per mark
    mark_probs = target_mark.exp()
    kl = -(mark_probs * log_ratio).sum(-1).mean(-1)
    acceptance = (mark_probs * log_ratio.clamp_max(0.0).exp()).sum(-1).mean(-1)
    return Overlap(kl, acceptance)


def stratified_inter_times(distribution: LogNormalMixture, uniforms: Tensor) -> Tensor:
    """Draw inter-times without truncation, float64 (*batch, num_draws), each marginally of the distribution.

    Level (s + u_s) / S of draw s picks the component by inversion of the cumulative weights, components in the order of
    their means, and what the level leaves within the component's share is the probability of its quantile: strata of
    near components are near in log tau, and each component's share is spread over it.

    Args:
        distribution: batch shape (*batch,).
        uniforms: float64 (*batch, num_draws) in (0, 1), u_s.

    Example:
        >>> zero = torch.zeros(1, 1, dtype=torch.float64)
        >>> standard, middles = LogNormalMixture(zero, zero, zero), torch.full((1, 2), 0.5, dtype=torch.float64)
        >>> stratified_inter_times(standard, middles).log()  # quantiles of Normal(0, 1) at 1/4 and 3/4
        tensor([[-0.6745,  0.6745]], dtype=torch.float64)
    """
    if distribution.elapsed is not None:
        raise ValueError("stratified draws are from distributions without truncation")
    num_draws = uniforms.shape[-1]
    levels = (torch.arange(num_draws, device=uniforms.device) + uniforms) / num_draws
    order = distribution.means.argsort(-1)
    weights = distribution.log_weights.gather(-1, order).double().exp()
    ends = weights.cumsum(-1)
    levels = levels * ends[..., -1:]  # weights sum to 1 up to rounding
    component = torch.searchsorted(ends[..., :-1].contiguous(), levels)  # (*batch, num_draws)
    weight, end = weights.gather(-1, component), ends.gather(-1, component)
    p = (1 - (end - levels) / weight).clamp(1e-12, 1 - 1e-12)  # a component of weight 1e-15 has levels of few digits
    chosen = order.gather(-1, component)
    x = distribution.means.gather(-1, chosen) + distribution.log_stds.gather(-1, chosen).exp() * torch.special.ndtri(p)
    return torch.exp(distribution.shift + distribution.scale * x)
