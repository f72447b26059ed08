"""Sums over the steps of sampled paths, by marks and bins.

They are of events, of their probabilities and of their integrated intensities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.forecasting.first_events import FirstEvents
from tppsd.forecasting.integrals import event_densities, mark_integrals
from tppsd.sampling.recorder import Steps
from tppsd.sampling.requests import RequestPlan


class Sums(NamedTuple):
    """Holds sums of every path, set of marks and bin, float64 (num_paths, num_sets, num_bins).

    Fields:
        events: N, their number.
        probabilities: sum over steps of p_i, the chance that the step ends with such an event within the bin.
        hazards: integral of their intensity along the path within the bin.
    """

    events: Tensor
    probabilities: Tensor
    hazards: Tensor

    @classmethod
    def zeros(cls, *shape: int) -> Sums:
        """Return sums of nothing yet."""
        return cls(*(torch.zeros(shape, dtype=torch.float64) for _ in range(3)))


class StepSums:
    """Accumulates sums along paths while they are sampled (tppsd.sampling.recorder.Accumulator).

    Both differences N - sum p_i and N - (integral of the intensity) are martingales along a path, stopped or not: their
    mean is 0.

    Args:
        sets: bool (num_sets, num_marks).
        edges: float64 (num_bins + 1,), increasing, times since the history was observed; bin j is (edges[j],
            edges[j + 1]].
        order: n, which event of a set the sums `until_first` are about: 1 is the first.
        times: float64 (num_times,), since the history was observed, at which the density of that event is wanted; or
            None.

    Attributes:
        totals: of whole paths.
        until_first: of each path until its first event of the set, that included; of its n-th, from the one before on.
        first_times: float64 (num_paths, num_sets), of that event since the history was observed; inf without one.
        first_events: of any mark, for control variates.
        densities: of the time of the n-th event of each set at `times`, float64 (num_paths, num_sets, num_times): sum
            over the steps that begin before it of g_i(t - t_i) f_i(A | t - t_i).
    """

    def __init__(self, sets: Tensor, edges: Tensor, order: int = 1, times: Tensor | None = None) -> None:
        self.sets, self.edges, self.order = sets, edges, order
        self.times = edges[:0] if times is None else times

    def begin(self, plan: RequestPlan) -> None:
        """Begin with the paths of a plan, numbered as its requests."""
        histories, which = plan.histories, plan.requests.history
        last = histories.tokens.times.gather(1, histories.lengths.unsqueeze(1) - 1).squeeze(1)
        self._observed = (last + histories.elapsed).cpu()[which]
        shape = len(which), len(self.sets), len(self.edges) - 1
        self.totals, self.until_first = Sums.zeros(*shape), Sums.zeros(*shape)
        self.first_times = torch.full(shape[:2], torch.inf, dtype=torch.float64)
        self.first_events = FirstEvents(shape[0], shape[2])
        self.densities = torch.zeros(*shape[:2], len(self.times), dtype=torch.float64)
        self._num_hits = torch.zeros(shape[:2], dtype=torch.int64)

    def add(self, steps: Steps) -> None:
        """Add the steps of one call of a method."""
        place = torch.arange(steps.starts.shape[1])
        rows, positions = (place < steps.num_steps.unsqueeze(1)).nonzero(as_tuple=True)
        if len(rows) == 0:
            return
        path = steps.request[rows]
        is_event = (place < steps.num_events.unsqueeze(1))[rows, positions]
        observed = self._observed[path]
        inter_times, marks = (field[rows, positions] for field in (steps.events.inter_times, steps.events.marks))
        ends = self.edges + (observed - steps.starts[rows, positions]).unsqueeze(1)  # (num_steps, num_bins + 1)
        times = steps.events.times[rows, positions] - observed
        is_hit = self.sets[:, marks.clamp(0, self.sets.shape[1] - 1)].t() & is_event.unsqueeze(1)  # (num_steps, sets)

        distributions = steps.distributions[rows, positions]
        p, hazard = mark_integrals(distributions, torch.cat([ends, inter_times.unsqueeze(1)], 1), self.sets)
        is_lived = (ends < inter_times.unsqueeze(1)).unsqueeze(1)
        hazard = torch.where(is_lived, hazard[..., :-1], hazard[..., -1:])
        in_bin = (times.unsqueeze(1) > self.edges[:-1]) & (times.unsqueeze(1) <= self.edges[1:])
        leads = (positions == 0).nonzero().squeeze(1)
        self.first_events.add(path[leads], distributions[leads], ends[leads, 1:], inter_times[leads])
        of_step = Sums(
            (is_hit.unsqueeze(2) & in_bin.unsqueeze(1)).double(), p[..., :-1].diff(dim=-1), hazard.diff(dim=-1)
        )

        hits = torch.zeros(*steps.starts.shape, len(self.sets), dtype=torch.bool)
        hits[rows, positions] = is_hit
        works = steps.num_steps > 0
        own = steps.request[works]
        first = torch.zeros_like(hits)
        first[works] = self._is_before(own, hits[works])
        until_first = first[rows, positions].unsqueeze(2)
        if len(self.times):
            at = self.times + (observed - steps.starts[rows, positions]).unsqueeze(1)
            found = event_densities(distributions, at, self.sets) * until_first
            self.densities.index_add_(0, path, found)
        for total, until, values in zip(self.totals, self.until_first, of_step, strict=True):
            for kept, parts in ((total, values), (until, values * until_first)):
                of_row = torch.zeros(len(works), *kept.shape[1:], dtype=torch.float64).index_add_(0, rows, parts)
                kept[own] += of_row[works]
        at = torch.full(hits.shape, torch.inf, dtype=torch.float64)
        at[rows, positions] = torch.where(is_hit, times.unsqueeze(1), torch.inf)
        self.first_times[own] = torch.minimum(self.first_times[own], at[works].amin(1))
        self._num_hits[own] += hits[works].sum(1)

    def _is_before(self, path: Tensor, hits: Tensor) -> Tensor:
        """Tell whether a step's event of a set would be the one of this order, bool (num_rows, n, num_sets).

        For the first: whether the path has had none before.

        Args:
            path: int64 (num_rows,).
            hits: bool (num_rows, n, num_sets), the events of a set among the steps.
        """
        earlier = hits.long().cumsum(1) - hits.long()
        return earlier + self._num_hits[path].unsqueeze(1) == self.order - 1
