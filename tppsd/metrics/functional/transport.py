"""Optimal transport distance of two event sequences: how far a continuation is from what really followed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tppsd.data.sequences import EventSequence

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
