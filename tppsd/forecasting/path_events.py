"""What sampled paths and what came have in common: counts, optimal transport and T-mAP, by set of marks and horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.forecasting.forecast import Forecast
from tppsd.forecasting.questions import MarkSet
from tppsd.metrics.functional.counts import horizon_counts
from tppsd.metrics.functional.temporal_map import ForecastEvents, MatchedPredictions, match_predictions
from tppsd.metrics.functional.transport import transport_by_mark

TOLERANCES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of the horizon, up to which events are matched with each other
TRANSPORT_PATHS = 16  # of each origin, whose transport distances are averaged
LEAST_SHARE = 0.05  # of paths that have a j-th event, so that it is predicted at all


class Observed(NamedTuple):
    """Holds what came after each origin.

    Fields: continuations: events since the origin, on [0, longest horizon]; counts: int64 (num_origins, num_sets,
    num_horizons); next_times: float64 (num_origins,), since the origin, inf where no event came within the longest
    horizon; first_times: float64 (num_origins, num_sets), likewise, of the first event of each set.
    """

    continuations: list[EventSequence]
    counts: Tensor
    next_times: Tensor
    first_times: Tensor


class TemporalMaps(NamedTuple):
    """T-mAP of sets of marks at one horizon. Fields: matched: predictions of all origins; sets: of marks."""

    matched: MatchedPredictions
    sets: tuple[tuple[int, ...], ...]

    def values(self, weights: Tensor | None = None) -> Tensor:
        """Return the mean AP of each set's marks, (num_sets,), where origins count `weights` (num_origins,) times."""
        by_mark = self.matched.temporal_map(weights).average_precision.mean(1)
        return torch.stack([by_mark[list(marks)].mean() for marks in self.sets])

    @classmethod
    def cat(cls, parts: Sequence[TemporalMaps]) -> TemporalMaps:
        """Join those of origins one after the other."""
        return cls(MatchedPredictions.cat([part.matched for part in parts]), parts[0].sets)


def observe(
    continuations: list[EventSequence], sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int
) -> Observed:
    """Count what came, by set of marks and horizon."""
    counts = torch.stack([horizon_counts(c, 0.0, horizons, num_marks) for c in continuations])
    next_times = [float(c.event_times[0]) if len(c) else torch.inf for c in continuations]
    first_times = torch.full((len(continuations), len(sets)), torch.inf, dtype=torch.float64)
    for own, came in zip(first_times, continuations, strict=True):
        for place, one in enumerate(sets):
            is_hit = torch.isin(came.marks, torch.tensor(one.marks))
            own[place] = came.event_times[is_hit].amin() if bool(is_hit.any()) else torch.inf
    return Observed(continuations, _of_sets(counts, sets), torch.tensor(next_times, dtype=torch.float64), first_times)


class PathEvents(NamedTuple):
    """Holds the events of all paths, with times since the origin: path s of origin i is row i * num_paths + s.

    Fields: num_paths; offsets int64 (num_rows + 1,); times float64, marks int64 (num_events,).
    """

    num_paths: int
    offsets: Tensor
    times: Tensor
    marks: Tensor

    @classmethod
    def of(cls, forecast: Forecast) -> PathEvents:
        """Take the paths of a forecast."""
        samples = forecast.paths
        origins = torch.tensor([history.window_end for history in forecast.histories], dtype=torch.float64)
        started = origins.repeat_interleave(forecast.num_paths).repeat_interleave(samples.offsets.diff())
        times = (samples.flat_event_times - started).clamp_max(forecast.horizon)
        return cls(forecast.num_paths, samples.offsets, times, samples.flat_marks)

    def counts(self, sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int) -> Tensor:
        """Count events within each horizon, int64 (num_paths, num_origins, num_sets, num_horizons)."""
        num_rows, num_horizons = len(self.offsets) - 1, len(horizons)
        rows = torch.arange(num_rows).repeat_interleave(self.offsets.diff())
        bins = torch.searchsorted(torch.tensor(horizons, dtype=torch.float64), self.times)
        cells = (rows * num_marks + self.marks) * num_horizons + bins
        binned = torch.bincount(cells, minlength=num_rows * num_marks * num_horizons)
        counts = _of_sets(binned.view(num_rows, num_marks, num_horizons).cumsum(-1), sets)
        return counts.view(-1, self.num_paths, len(sets), num_horizons).transpose(0, 1)

    def transport(
        self, origin: int, came: EventSequence, sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int
    ) -> Tensor:
        """Return mean optimal transport distances of an origin, (2, num_sets, num_horizons).

        First of `TRANSPORT_PATHS` paths from what came, then of half of these paths from the other half. They are
        averaged over `TOLERANCES` of each horizon: a deletion costs half of one, so that events are aligned up to it.
        Every pair of paths, and every mark, is a problem of its own: they are told apart as marks of one pair of
        sequences.
        """
        num = 2 * (min(self.num_paths, TRANSPORT_PATHS) // 2)
        first = origin * self.num_paths
        own = slice(int(self.offsets[first]), int(self.offsets[first + num]))
        path = torch.arange(num).repeat_interleave(self.offsets[first : first + num + 1].diff())
        times, marks, is_first = self.times[own], self.marks[own], path < num // 2
        copies = torch.arange(num).repeat_interleave(len(came))  # of what came, one for each path
        left_times, left_keys = torch.cat([times, times[is_first]]), torch.cat([path, num + path[is_first]])
        left_marks = torch.cat([marks, marks[is_first]])
        right_times = torch.cat([came.event_times.repeat(num), times[~is_first]])
        right_keys = torch.cat([copies, num + path[~is_first] - num // 2])
        right_marks = torch.cat([came.marks.repeat(num), marks[~is_first]])
        found = torch.zeros(2, len(sets), len(horizons), dtype=torch.float64)
        for place, horizon in enumerate(horizons):
            left = _within(left_times, left_keys * num_marks + left_marks, horizon)
            right = _within(right_times, right_keys * num_marks + right_marks, horizon)
            keys, dense = torch.cat([left[1], right[1]]).unique(return_inverse=True)
            pair = [
                EventSequence.of(left[0], dense[: len(left[0])], 0.0, horizon),
                EventSequence.of(right[0], dense[len(left[0]) :], 0.0, horizon),
            ]
            costs = [0.5 * share * horizon for share in TOLERANCES]
            distances = transport_by_mark(pair[0], pair[1], len(keys), costs).mean(-1)
            sums = distances.new_zeros(2 * num_marks)
            sums.index_add_(0, torch.where(keys < num * num_marks, 0, num_marks) + keys % num_marks, distances)
            by_mark = sums.view(2, num_marks) / torch.tensor([[num], [num // 2]])
            found[:, :, place] = torch.stack([by_mark[:, list(one.marks)].sum(1) for one in sets], 1)
        return found

    def temporal_map(self, observed: Observed, sets: Sequence[MarkSet], horizon: float, num_marks: int) -> TemporalMaps:
        """Match the j-th events of the paths with what came, for the T-mAP; that of a set is the mean of its marks' AP.

        The j-th predicted event lies at the median time of the j-th events of those paths that have one within the
        horizon; its score of mark k is the share of all paths whose j-th event is one of mark k within the horizon.
        """
        forecasts = [
            ForecastEvents(*self._predicted(i, horizon, num_marks), came.event_times, came.marks)
            for i, came in enumerate(observed.continuations)
        ]
        matched = match_predictions(forecasts, horizon, [share * horizon for share in TOLERANCES], num_marks)
        return TemporalMaps(matched, tuple(one.marks for one in sets))

    def _predicted(self, origin: int, horizon: float, num_marks: int) -> tuple[Tensor, Tensor]:
        """Return times (n,) and scores (n, num_marks) of the predicted events after an origin."""
        first = origin * self.num_paths
        offsets = self.offsets[first : first + self.num_paths + 1]
        own = slice(int(offsets[0]), int(offsets[-1]))
        is_in = self.times[own] < horizon
        place = torch.arange(len(is_in)) - (offsets[:-1] - offsets[0]).repeat_interleave(offsets.diff())
        place, times, marks = place[is_in], self.times[own][is_in], self.marks[own][is_in]
        shares = torch.zeros(int(place.max()) + 1 if len(place) else 0, num_marks, dtype=torch.float64)
        shares.view(-1).index_add_(0, place * num_marks + marks, torch.full_like(times, 1 / self.num_paths))
        num = int((shares.sum(1) >= LEAST_SHARE).sum())  # shares fall with j
        medians = [times[place == j].median() for j in range(num)]
        return torch.stack(medians) if num else times.new_zeros(0), shares[:num]


def _of_sets(counts: Tensor, sets: Sequence[MarkSet]) -> Tensor:
    """Sum counts of marks: (n, num_marks, num_horizons) -> (n, num_sets, num_horizons)."""
    return torch.stack([counts[:, list(one.marks)].sum(1) for one in sets], 1)


def _within(times: Tensor, labels: Tensor, horizon: float) -> tuple[Tensor, Tensor]:
    """Return the events within a horizon, in order of time."""
    is_in = times <= horizon
    order = times[is_in].argsort(stable=True)
    return times[is_in][order], labels[is_in][order]
