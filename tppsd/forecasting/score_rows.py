"""From scores at every origin to the rows of a table: means with bootstrap intervals over sequences, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.forecasting.case_scores import CaseScores
from tppsd.metrics.functional.bootstrap import bootstrap_interval
from tppsd.metrics.functional.probability import auroc, brier_decomposition
from tppsd.metrics.functional.time_rescaling import ks_uniform

COMPARED = (  # scores of which lower is better, and what they are called in a sentence
    "crps_of_counts", "log_score_of_counts", "brier_score", "log_score", "crps_of_next_time", "transport_distance",
)  # fmt: skip
_NUM_RESAMPLES = 1000
_NUM_RESAMPLES_OF_RANKS = 200  # of AUROC, which sorts all origins again for each
_ANY = "any"


class ScoreRow(NamedTuple):
    """A score of a model: of a set of marks, over so many origins, with a 95 % bootstrap interval (NaN where none)."""

    model: str
    metric: str
    mark: str
    horizon: float
    value: float
    low: float
    high: float
    num_origins: int


class Comparison(NamedTuple):
    """The mean difference of a score, target less baseline, with a paired 95 % bootstrap interval."""

    baseline: str
    metric: str
    mark: str
    horizon: float
    target_value: float
    baseline_value: float
    difference: float
    low: float
    high: float

    def sentence(self) -> str:
        """Say who is better, and whether the interval leaves it open."""
        if self.high < 0:
            verdict = f"the target beats {self.baseline}"
        elif self.low > 0:
            verdict = f"{self.baseline} beats the target"
        else:
            verdict = f"the target does not clearly beat {self.baseline}, nor {self.baseline} the target"
        return (
            f"{self.metric} within {self.horizon:g}, mark {self.mark}: {verdict} ({self.target_value:.4g} against "
            f"{self.baseline_value:.4g}; difference {self.difference:+.3g}, 95 % interval {self.low:+.3g} to {self.high:+.3g})"
        )


class _Cells(NamedTuple):
    """Scores of every origin side by side. Fields: names: (metric, mark, horizon) of each column; values (n, columns)."""

    names: list[tuple[str, str, float]]
    values: Tensor


def score_rows(
    models: Mapping[str, CaseScores], labels: Sequence[str], horizons: Sequence[float], sequence: Tensor, seed: int
) -> list[ScoreRow]:
    """Return all rows, model by model.

    Args:
        models: name -> scores.
        labels: of the sets of marks.
        horizons: increasing.
        sequence: int64 (num_origins,), the sequence of each origin; the bootstrap draws whole sequences.
        seed: of the bootstrap.
    """
    rows = []
    for model, scores in models.items():
        cells = _cells(scores, labels, horizons)
        found = _bootstrap(_mean_of(cells.values, sequence), sequence, _NUM_RESAMPLES, seed)
        for name, *numbers in zip(cells.names, *(part.tolist() for part in found), strict=True):
            rows.append(ScoreRow(model, *name, *numbers, len(sequence)))
        for name, interval in _others(scores, labels, horizons, sequence, seed):
            rows.append(ScoreRow(model, *name, *interval, len(sequence)))
    return rows


def comparisons(
    models: Mapping[str, CaseScores], target: str, labels: Sequence[str], horizons: Sequence[float], sequence: Tensor,
    seed: int,
) -> list[Comparison]:  # fmt: skip
    """Compare the target with every baseline on the scores of `COMPARED`, for each set of marks and horizon."""
    found = []
    own = _cells(models[target], labels, horizons, COMPARED)
    for baseline, scores in models.items():
        if baseline == target:
            continue
        theirs = _cells(scores, labels, horizons, COMPARED).values
        differences = _bootstrap(_mean_of(own.values - theirs, sequence), sequence, _NUM_RESAMPLES, seed)
        values = own.values.mean(0).tolist(), theirs.mean(0).tolist(), *(part.tolist() for part in differences)
        found += [Comparison(baseline, *name, *numbers) for name, *numbers in zip(own.names, *values, strict=True)]
    return found


def _cells(
    scores: CaseScores, labels: Sequence[str], horizons: Sequence[float], metrics: Sequence[str] | None = None
) -> _Cells:
    """The means of a model, or some of them."""
    names: list[tuple[str, str, float]] = []
    columns = []
    for metric, values in scores.means.items():
        if metrics is not None and metric not in metrics:
            continue
        if values.dim() == 1:  # of the next event, whatever its mark
            names.append((metric, _ANY, horizons[-1]))
        else:
            names += [(metric, label, horizon) for label in labels for horizon in horizons]
        columns.append(values.reshape(len(values), -1))
    return _Cells(names, torch.cat(columns, 1))


def _mean_of(values: Tensor, sequence: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean over origins of values (num_origins, columns), by weights of sequences."""
    places, num = _places(sequence)
    sums = values.new_zeros(num, values.shape[1]).index_add_(0, places, values)
    counts = torch.bincount(places, minlength=num).double()
    return lambda weights: (weights @ sums) / (weights @ counts)


def _bootstrap(
    statistic: Callable[[Tensor], Tensor], sequence: Tensor, num_resamples: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, low and high; no interval where there is one sequence only."""
    num = _places(sequence)[1]
    if num < 2:
        value = statistic(torch.ones(num, dtype=torch.float64)).double()
        return value, torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    found = bootstrap_interval(statistic, num, num_resamples=num_resamples, seed=seed)
    return found.value, found.lower, found.upper


def _places(sequence: Tensor) -> tuple[Tensor, int]:
    """Sequences that have origins, numbered from 0: (num_origins,), and how many there are."""
    known, places = sequence.unique(return_inverse=True)
    return places, len(known)


def _others(
    scores: CaseScores, labels: Sequence[str], horizons: Sequence[float], sequence: Tensor, seed: int
) -> Iterator[tuple[tuple[str, str, float], tuple[float, float, float]]]:
    """Scores that are no means over origins."""
    places = _places(sequence)[0]
    for a, label in enumerate(labels):
        for b, horizon in enumerate(horizons):
            probs, came = scores.probs[:, a, b], scores.outcomes[:, a, b]

            def area(weights: Tensor, probs: Tensor = probs, came: Tensor = came) -> Tensor:
                return auroc(probs, came, weights[places])

            found = (math.nan,) * 3  # where it always happened, or never
            if 0 < int(came.sum()) < len(came):
                value, low, high = _bootstrap(area, sequence, _NUM_RESAMPLES_OF_RANKS, seed)
                found = float(value), float(low), float(high)
            yield ("auroc", label, horizon), found
            for name, part in brier_decomposition(probs, came)._asdict().items():
                yield (f"brier_{name}", label, horizon), (float(part), math.nan, math.nan)
            distance = ks_uniform(scores.count_pits[:, a, b]).statistic
            yield ("ks_of_count_pit", label, horizon), (distance, math.nan, math.nan)
            yield ("temporal_map", label, horizon), (float(scores.temporal_map[a, b]), math.nan, math.nan)
    distance = ks_uniform(scores.next_time_pits).statistic
    yield ("ks_of_next_time_pit", _ANY, horizons[-1]), (distance, math.nan, math.nan)
