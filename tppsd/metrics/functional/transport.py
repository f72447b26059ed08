"""Distances: of two samples of the next event, of two event sequences, and of two distributions of the next event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tppsd.data.sequences import EventSequence
from tppsd.models.distribution import NextEventDistribution
from tppsd.models.mixture import LogNormalMixture

Ground = Literal["index", "discrete"]


def wasserstein_distance(first: Tensor, second: Tensor) -> float:
    """Return the 1-Wasserstein distance of two empirical distributions, in the unit of the values; D^t of the paper.

        W_1 = integral |F_first(x) - F_second(x)| dx

    Times and inter-times that follow one history give the same distance. Two samples of n draws from the same
    distribution are of the order of its spread / sqrt(n) apart, not 0: compare with the distance of two samples of one
    sampler.

    Args:
        first, second: (num_draws,), of any two lengths >= 1.
    Source: TPP-SD (arXiv 2507.09252), section 5.1.

    Example:
        >>> wasserstein_distance(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.5]))
        1.0
    """
    first, second = (_checked(values, "values").double() for values in (first, second))
    values, order = torch.cat([first, second]).sort()
    return float(_distance_of_cdfs(order < len(first), order >= len(first))[:-1] @ values.diff())


def earth_movers_distance(first: Tensor, second: Tensor, ground: Ground = "index") -> float:
    """Earth mover's distance of two empirical distributions of marks, without unit; D^k of the paper.

        EMD = min over couplings of E c(k, l)
        ground = "index":     c = |k - l|    EMD = sum_k |F_first(k) - F_second(k)|
        ground = "discrete":  c = 1{k != l}  EMD = 1/2 sum_k |f_first(k) - f_second(k)|, the total variation

    The paper's cost is "index", which takes the marks' numbers for places on a line; marks are names as a rule, and
    then "discrete" is the distance that does not depend on their order. As for times, two samples of one distribution
    are not at 0.

    Args:
        first, second: integers >= 0, (num_draws,), of any two lengths >= 1.
        ground: "index" or "discrete".
    Source: TPP-SD (arXiv 2507.09252), section 5.1.

    Example:
        >>> first, second = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2])
        >>> [round(earth_movers_distance(first, second, ground), 3) for ground in ('index', 'discrete')]
        [1.0, 0.667]
    """
    if ground not in ("index", "discrete"):
        raise ValueError(f"ground = {ground!r} is unknown; choose 'index' (|k - l|) or 'discrete' (0 or 1)")
    first, second = (_checked(marks, "marks") for marks in (first, second))
    size = 1 + int(torch.maximum(first.max(), second.max()))
    counts = [torch.bincount(marks, minlength=size) for marks in (first, second)]
    if ground == "index":
        return float(_distance_of_cdfs(*counts).sum())
    return float(
        (counts[0] * len(second) - counts[1] * len(first)).abs().sum().double() / (2 * len(first) * len(second))
    )


def _distance_of_cdfs(first: Tensor, second: Tensor) -> Tensor:
    """Return |F_first - F_second| at every point, from the numbers of draws at each.

    These are whole numbers up to the division, so that it is exact.
    """
    below_first, below_second = first.long().cumsum(0), second.long().cumsum(0)
    num_first, num_second = below_first[-1], below_second[-1]
    return (below_first * num_second - below_second * num_first).abs().double() / (num_first * num_second)


def _checked(values: Tensor, name: str) -> Tensor:
    values = values.detach().flatten().cpu()
    if not len(values):
        raise ValueError(f"a sample has no {name}; both samples need at least one draw")
    if not values.double().isfinite().all():
        raise ValueError(f"a sample has {name} that are infinite or NaN; a distance needs finite ones")
    return values


HYPRO_COSTS = (0.05, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


def transport_distance(first: EventSequence, second: EventSequence, costs: Sequence[float] = HYPRO_COSTS) -> Tensor:
    """Return the cheapest way to turn the events of `first` into those of `second`, for each cost of a deletion.

    The result is float64 (num_costs,).

        OTD_c = sum over marks of min over alignments of [c * #{events not aligned} + sum over aligned pairs |t - t'|]

    Deleting and inserting cost c each, so that no pair further apart than 2 c is aligned. Events of different marks are
    never aligned. Within a mark an optimal alignment keeps the order of time, so the minimum is exact (dynamic
    programme, O(n m)).

    Args:
        first, second: the sequences; given events belong to a history that they share and are left out.
        costs: c, in the data's unit of time, as the distance is. The default are HYPRO's, meant for its data: with
            another unit of time choose others.
    Source: Mei, Qin and Eisner, "Imputing missing events in continuous-time event streams" (ICML 2019); averaged over
        several costs: HYPRO (Xue et al., NeurIPS 2022).

    Example:
        >>> first, second = EventSequence.of([1.0, 2.0], t_start=0.0), EventSequence.of([1.5], t_start=0.0)
        >>> transport_distance(first, second, costs=[1.0])  # move one by 0.5, delete the other
        tensor([1.5000], dtype=torch.float64)
    """
    present = torch.cat([s.marks[s.num_given :] for s in (first, second)]).unique().tolist()
    return _by_mark(first, second, present, costs).sum(0)


def transport_by_mark(
    first: EventSequence, second: EventSequence, num_marks: int, costs: Sequence[float] = HYPRO_COSTS
) -> Tensor:
    """Summands of `transport_distance`, one for each mark, float64 (num_marks, num_costs); its arguments are the same.

    For a distance by horizon, give sequences that end there (`EventSequence.prefix`).

    Example:
        >>> first = EventSequence.of([1.0, 2.0], marks=[0, 1], t_start=0.0)
        >>> second = EventSequence.of([1.5], marks=[0], t_start=0.0)
        >>> transport_by_mark(first, second, num_marks=2, costs=[1.0])
        tensor([[0.5000],
                [1.0000]], dtype=torch.float64)
    """
    return _by_mark(first, second, range(num_marks), costs)


def _by_mark(first: EventSequence, second: EventSequence, marks: Sequence[int], costs: Sequence[float]) -> Tensor:
    prices = torch.tensor(costs, dtype=torch.float64)
    if not len(prices) or not (prices > 0).all():
        raise ValueError(f"costs = {list(costs)} must be positive numbers, in the unit of the event times")
    sources, targets = (
        [s.event_times[s.num_given :][s.marks[s.num_given :] == mark] for mark in marks] for s in (first, second)
    )
    return _alignment_costs(sources, targets, prices)


def _alignment_costs(sources: list[Tensor], targets: list[Tensor], prices: Tensor) -> Tensor:
    """Cheapest alignments (num_problems, num_costs) of sorted times with sorted times.

    cost[i, j] of the first i and the first j events = min(cost[i-1, j] + c, cost[i, j-1] + c, cost[i-1, j-1] + |t_i -
    t'_j|), by anti-diagonals i + j = 1, 2, ...: all of one are computed at once, for all problems and costs.
    """
    if not sources:
        return prices.new_zeros(0, len(prices))
    lengths = torch.tensor([[len(s), len(t)] for s, t in zip(sources, targets, strict=True)])
    t, other = pad_sequence(sources, batch_first=True), pad_sequence(targets, batch_first=True)
    i = torch.arange(1, t.shape[1] + 1)
    unreachable = prices.new_full((len(sources), t.shape[1] + 1, len(prices)), torch.inf)
    before, current = unreachable, unreachable.clone()
    current[:, 0] = 0.0
    result = prices.new_zeros(len(sources), len(prices))
    for diagonal in range(1, int(lengths.sum(1).max()) + 1):
        following = current + prices  # insert
        following[:, 1:] = torch.minimum(following[:, 1:], current[:, :-1] + prices)  # delete
        if other.shape[
            1
        ]:  # move; where j is not in 1..m, `before` is unreachable or the entry is not part of a solution
            j = (diagonal - i).clamp(1, other.shape[1])
            moved = before[:, :-1] + (t - other[:, j - 1]).abs().unsqueeze(-1)
            following[:, 1:] = torch.minimum(following[:, 1:], moved)
        before, current = current, following
        done = lengths.sum(1) == diagonal
        result[done] = current[done, lengths[done, 0]]
    return result


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
