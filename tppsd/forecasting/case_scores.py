"""Scores of forecasts origin by origin: sampled paths and probabilities against what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tppsd.forecasting.forecast import Forecast
from tppsd.forecasting.next_time_scores import next_time_scores
from tppsd.forecasting.path_events import Observed, PathEvents, TemporalMaps
from tppsd.metrics.functional.counts import crps_of_counts, log_score_of_counts, number_test, randomised_pit

LEVELS = (0.5, 0.8, 0.95)  # of the intervals whose coverage is scored
NUMBER_TEST_TAIL = 0.025  # on either side, CSEP's level of 5 %


class CaseScores(NamedTuple):
    """Holds what a model scores at every origin, for every set of marks ("any" is the last) and horizon.

    Fields: means: score -> (num_origins, num_sets, num_horizons), or (num_origins,) for the time of the next event;
    their mean over origins is the score; probs: P(an event in A within h), in [0, 1], (num_origins, num_sets,
    num_horizons);
    outcomes: bool, likewise; count_pits, first_time_pits: randomised PITs of the count and of the time of the first
    event, likewise; next_time_pits: (num_origins,); temporal_maps: by horizon, of all origins together.
    """

    means: dict[str, Tensor]
    probs: Tensor
    outcomes: Tensor
    count_pits: Tensor
    first_time_pits: Tensor
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
            torch.cat([part.first_time_pits for part in parts]),
            torch.cat([part.next_time_pits for part in parts]),
            tuple(TemporalMaps.cat(own) for own in maps),
        )


class Uniforms(NamedTuple):
    """Holds the numbers in (0, 1) that make PITs continuous, of every origin whatever chunk it is in.

    Fields: counts, first_times: (num_origins, num_sets, num_horizons); next_times: (num_origins,).
    """

    counts: Tensor
    next_times: Tensor
    first_times: Tensor

    @classmethod
    def of(cls, seed: int, num_origins: int, num_sets: int, num_horizons: int) -> Uniforms:
        """Draw those of all origins."""
        generator, shape = torch.Generator().manual_seed(seed), (num_origins, num_sets, num_horizons)
        counts = torch.rand(shape, generator=generator, dtype=torch.float64)
        next_times = torch.rand(num_origins, generator=generator, dtype=torch.float64)
        return cls(counts, next_times, torch.rand(shape, generator=generator, dtype=torch.float64))

    def of_chunk(self, which: slice) -> Uniforms:
        """Return those of some origins."""
        return Uniforms(*(values[which] for values in self))


def case_scores(
    forecast: Forecast,
    observed: Observed,
    horizons: Sequence[float],
    uniforms: Uniforms,
    advance: Callable[[], Any] = lambda: None,
) -> CaseScores:
    """Score a forecast of some origins, from one set of paths.

    Args:
        forecast: with `bins` at the horizons.
        observed: what came.
        horizons: increasing; the last is the forecast's.
        uniforms: of these origins.
        advance: is called after every origin.
    """
    paths = PathEvents.of(forecast)
    # (num_paths, num_origins, num_sets, num_horizons)
    counts = paths.counts(forecast.sets, horizons, forecast.num_marks)
    pits = randomised_pit(counts, observed.counts, uniforms.counts)
    probs = torch.stack([forecast.probability(within=h).value for h in horizons], -1).clamp(0.0, 1.0)
    came = observed.counts > 0
    limits = torch.tensor(list(horizons), dtype=torch.float64)
    firsts = torch.minimum(forecast.first_times.unsqueeze(-1), limits)  # (num_paths, num_origins, num_sets, horizons)
    first_came = torch.minimum(observed.first_times.unsqueeze(-1), limits)
    first_pits = randomised_pit(firsts, first_came, uniforms.first_times)
    next_time = next_time_scores(forecast.next_event, observed.next_times, horizons[-1], uniforms.next_times)
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
        "crps_of_first_time": crps_of_counts(firsts, first_came),
        "transport_distance": transport[:, 0],
        "transport_score": transport[:, 0] - 0.5 * transport[:, 1],
        "mean_of_count_pit": pits,
        "mean_of_next_time_pit": next_time.pits,
        "mean_of_first_time_pit": first_pits,
    }  # fmt: skip
    for level in LEVELS:
        means[f"coverage_{100 * level:g}"] = ((pits - 0.5).abs() <= level / 2).double()
    number = number_test(counts, observed.counts)
    means["number_test_passed"] = (torch.minimum(number.delta_1, number.delta_2) > NUMBER_TEST_TAIL).double()
    means |= {"delta_1": number.delta_1, "delta_2": number.delta_2}
    means |= {"num_events": observed.counts.double(), "num_events_expected": counts.double().mean(0)}
    maps = tuple(paths.temporal_map(observed, forecast.sets, h, forecast.num_marks) for h in horizons)
    return CaseScores(means, probs, came, pits, first_pits, next_time.pits, maps)


def _log_score(probs: Tensor, came: Tensor, num_paths: int) -> Tensor:
    """Return - log P(what happened), with half a path of each outcome added, so that no probability is 0 or 1."""
    smoothed = (num_paths * probs + 0.5) / (num_paths + 1)
    return -torch.where(came, smoothed, 1 - smoothed).log()
