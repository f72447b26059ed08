"""Scores of forecasts origin by origin: sampled paths and probabilities against what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.forecasting.forecast import Forecast
from tppsd.forecasting.questions import MarkSet
from tppsd.metrics.functional.probability import (
    crps_of_counts,
    horizon_counts,
    log_score_of_counts,
    number_test,
    randomised_pit,
)
from tppsd.metrics.functional.temporal_map import ForecastEvents, MatchedPredictions, match_predictions
from tppsd.metrics.functional.transport import transport_by_mark

_NUM_GEOMETRIC, _NUM_EVEN, _SMALLEST = 48, 32, 1e-6  # panels of the quadrature, and the first, in horizons
_POINTS, _WEIGHTS = (-0.7745966692414834, 0.0, 0.7745966692414834), (5 / 9, 8 / 9, 5 / 9)  # Gauss-Legendre
_CHUNK = 64  # histories


class NextTimeScores(NamedTuple):
    """Holds scores, float64 (num_histories,) each. Fields: crps, pits."""

    crps: Tensor
    pits: Tensor


def next_time_scores(
    distributions: Any,
    histories: Sequence[EventSequence],
    next_times: Tensor,
    horizon: float,
    uniforms: Tensor,
) -> NextTimeScores:
    """Score the distributions of the time X until the next event against the time y that it took.

        CRPS of min(X, h) at min(y, h) = integral_0^h (G(x) - 1{x >= y})^2 dx,   G(x) = P(X <= x)
        PIT = G(y); where nothing came until h: G(h) + v (1 - G(h)), v ~ U(0, 1)

    Nothing is said about what is beyond h, which was not observed. The PIT is uniform for a right forecast. The
    integral is a composite Gauss-Legendre rule on even and geometric panels: its error is below 1e-3 h for
    distributions with components of a relative width of 1 %, and below 1e-6 h from 10 % on.

    Args:
        distributions: (num_histories,), of the inter-time, given that nothing came until the histories were observed.
        histories: whose ends the times are counted from.
        next_times: y, (num_histories,); inf where nothing came until h.
        horizon: h, in the unit of time.
        uniforms: v, (num_histories,).
    Source: Gneiting and Ranjan, J. Bus. Econ. Stat. 29 (2011), threshold weights 1{x < h}.
    """
    elapsed = torch.tensor([_silence(history) for history in histories], dtype=torch.float64)
    reached = next_times.clamp_max(horizon)
    crps, below = [], []
    with torch.inference_mode():
        for start in range(0, len(histories), _CHUNK):
            part = slice(start, start + _CHUNK)
            own = distributions[part].double()
            nodes, weights = _rule(reached[part], horizon)
            survival = own.unsqueeze(0).log_survival(nodes + elapsed[part]).exp()
            errors = torch.where(nodes < reached[part], (1 - survival).square(), survival.square())
            crps.append((weights * errors).sum(0))
            below.append(1 - own.log_survival(reached[part] + elapsed[part]).exp())
    at_end = torch.cat(below)
    pits = torch.where(next_times <= horizon, at_end, at_end + uniforms * (1 - at_end))
    return NextTimeScores(torch.cat(crps), pits)


def _silence(history: EventSequence) -> float:
    """Return the time without an event before a history ends."""
    return history.window_end - (float(history.event_times[-1]) if len(history) else history.window_start)


def _rule(reached: Tensor, horizon: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, horizon], (num_nodes, n), with an edge of panels at `reached` (n,)."""
    even = torch.linspace(0, 1, _NUM_EVEN + 1, dtype=torch.float64)
    geometric = torch.logspace(0, 1, _NUM_GEOMETRIC + 1, 1 / _SMALLEST, dtype=torch.float64) * _SMALLEST
    common = horizon * torch.cat([even, geometric[:-1]])
    edges = torch.cat([common.unsqueeze(1).expand(-1, len(reached)), reached.unsqueeze(0)]).sort(0).values
    half = 0.5 * edges.diff(dim=0)
    middle = edges[:-1] + half
    nodes = torch.cat([middle + point * half for point in _POINTS])
    return nodes, torch.cat([weight * half for weight in _WEIGHTS])


TOLERANCES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of the horizon, up to which events are matched with each other
NUMBER_TEST_TAIL = 0.025  # on either side, CSEP's level of 5 %
TRANSPORT_PATHS = 16  # of each origin, whose transport distances are averaged
LEAST_SHARE = 0.05  # of paths that have a j-th event, so that it is predicted at all


class Observed(NamedTuple):
    """Holds what came after each origin.

    Fields: continuations: events since the origin, on [0, longest horizon]; counts: int64 (num_origins, num_sets,
    num_horizons); next_times: float64 (num_origins,), since the origin, inf where no event came within the longest
    horizon.
    """

    continuations: list[EventSequence]
    counts: Tensor
    next_times: Tensor


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


class CaseScores(NamedTuple):
    """Holds what a model scores at every origin, for every set of marks ("any" is the last) and horizon.

    Fields: means: score -> (num_origins, num_sets, num_horizons), or (num_origins,) for the time of the next event;
    their mean over origins is the score; probs: P(an event in A within h), in [0, 1], (num_origins, num_sets,
    num_horizons);
    outcomes: bool, likewise; count_pits: randomised PIT, likewise; next_time_pits: (num_origins,); temporal_maps: by
    horizon, of all origins together.
    """

    means: dict[str, Tensor]
    probs: Tensor
    outcomes: Tensor
    count_pits: Tensor
    next_time_pits: Tensor
    temporal_maps: tuple[TemporalMaps, ...]

    @classmethod
    def cat(cls, parts: Sequence[CaseScores]) -> CaseScores:
        """Join those of origins one after the other."""
        means = {name: torch.cat([part.means[name] for part in parts]) for name in parts[0].means}
        maps = zip(*(part.temporal_maps for part in parts), strict=True)
        return cls(
            means,
            torch.cat([part.probs for part in parts]),
            torch.cat([part.outcomes for part in parts]),
            torch.cat([part.count_pits for part in parts]),
            torch.cat([part.next_time_pits for part in parts]),
            tuple(TemporalMaps.cat(own) for own in maps),
        )


class Uniforms(NamedTuple):
    """Holds the numbers in (0, 1) that make PITs continuous, of every origin whatever chunk it is in.

    Fields: counts: (num_origins, num_sets, num_horizons); next_times: (num_origins,).
    """

    counts: Tensor
    next_times: Tensor

    @classmethod
    def of(cls, seed: int, num_origins: int, num_sets: int, num_horizons: int) -> Uniforms:
        """Draw those of all origins."""
        generator = torch.Generator().manual_seed(seed)
        counts = torch.rand(num_origins, num_sets, num_horizons, generator=generator, dtype=torch.float64)
        return cls(counts, torch.rand(num_origins, generator=generator, dtype=torch.float64))

    def of_chunk(self, which: slice) -> Uniforms:
        """Return those of some origins."""
        return Uniforms(self.counts[which], self.next_times[which])


def observe(
    continuations: list[EventSequence], sets: Sequence[MarkSet], horizons: Sequence[float], num_marks: int
) -> Observed:
    """Count what came, by set of marks and horizon."""
    counts = torch.stack([horizon_counts(c, 0.0, horizons, num_marks) for c in continuations])
    next_times = [float(c.event_times[0]) if len(c) else torch.inf for c in continuations]
    return Observed(continuations, _of_sets(counts, sets), torch.tensor(next_times, dtype=torch.float64))


def case_scores(
    forecast: Forecast,
    observed: Observed,
    horizons: Sequence[float],
    levels: Sequence[float],
    uniforms: Uniforms,
    advance: Callable[[], Any] = lambda: None,
) -> CaseScores:
    """Score a forecast of some origins, from one set of paths.

    Args:
        forecast: with `bins` at the horizons.
        observed: what came.
        horizons: increasing; the last is the forecast's.
        levels: of the intervals whose coverage is asked for.
        uniforms: of these origins.
        advance: is called after every origin.
    """
    paths = Paths.of(forecast)
    counts = paths.counts(
        forecast.sets, horizons, forecast.num_marks
    )  # (num_paths, num_origins, num_sets, num_horizons)
    pits = randomised_pit(counts, observed.counts, uniforms.counts)
    probs = torch.stack([forecast.probability(within=h).value for h in horizons], -1).clamp(0.0, 1.0)
    came = observed.counts > 0
    next_time = next_time_scores(
        forecast.next_event, forecast.histories, observed.next_times, horizons[-1], uniforms.next_times
    )
    distances = []
    for i, continuation in enumerate(observed.continuations):
        distances.append(paths.transport(i, continuation, forecast.sets, horizons, forecast.num_marks))
        advance()
    transport = torch.stack(distances)
    means = {
        "crps_of_counts": crps_of_counts(counts, observed.counts),
        "log_score_of_counts": log_score_of_counts(counts, observed.counts),
        "brier_score": (probs - came.double()).square(),
        "log_score": _log_score(probs, came, forecast.num_paths),
        "crps_of_next_time": next_time.crps,
        "transport_distance": transport[:, 0],
        "transport_score": transport[:, 0] - 0.5 * transport[:, 1],
        "mean_of_count_pit": pits,
        "mean_of_next_time_pit": next_time.pits,
    }  # fmt: skip
    for level in levels:
        means[f"coverage_{100 * level:g}"] = ((pits - 0.5).abs() <= level / 2).double()
    number = number_test(counts, observed.counts)
    means["number_test_passed"] = (torch.minimum(number.delta_1, number.delta_2) > NUMBER_TEST_TAIL).double()
    means |= {"delta_1": number.delta_1, "delta_2": number.delta_2}
    means |= {"num_events": observed.counts.double(), "num_events_expected": counts.double().mean(0)}
    maps = tuple(paths.temporal_map(observed, forecast.sets, h, forecast.num_marks) for h in horizons)
    return CaseScores(means, probs, came, pits, next_time.pits, maps)


class Paths(NamedTuple):
    """Events of all paths, with times since the origin: path s of origin i is row i * num_paths + s.

    Fields: num_paths; offsets int64 (num_rows + 1,); times float64, marks int64 (num_events,).
    """

    num_paths: int
    offsets: Tensor
    times: Tensor
    marks: Tensor

    @classmethod
    def of(cls, forecast: Forecast) -> Paths:
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
            Every pair of
        paths, and every mark, is a problem of its own: they are told apart as marks of one pair of sequences.
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


def _log_score(probs: Tensor, came: Tensor, num_paths: int) -> Tensor:
    """Return - log P(what happened), with half a path of each outcome added, so that no probability is 0 or 1."""
    smoothed = (num_paths * probs + 0.5) / (num_paths + 1)
    return -torch.where(came, smoothed, 1 - smoothed).log()
