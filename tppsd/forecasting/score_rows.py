"""The rows of a table of scores: means over origins with bootstrap intervals, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tppsd.forecasting.case_scores import CaseScores
from tppsd.forecasting.path_events import TemporalMaps
from tppsd.forecasting.questions import ANY
from tppsd.metrics.functional.permutation import bootstrap_interval
from tppsd.metrics.functional.probability import auroc, brier_decomposition
from tppsd.metrics.functional.time_rescaling import ks_distance, ks_uniform

COMPARED = (  # scores of which lower is better, and what they are called in a sentence
    "crps_of_counts", "log_score_of_counts", "brier_score", "log_score", "crps_of_next_time", "crps_of_first_time",
    "transport_score",
)  # fmt: skip
_NUM_RESAMPLES = 1000
_NUM_RESAMPLES_OF_RANKS = 200  # of what is no mean over origins, and is worked out again for each
_BINARY, _FEWEST = ("brier_score", "log_score"), 5  # scores of yes or no, and origins of either that a comparison needs


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
    """The mean difference of a score, target less baseline, with a paired 95 % bootstrap interval (NaN where none).

    "An event within h" has no interval where it came at fewer than 5 origins, or at all but fewer than 5: too few to
    tell.
    """

    baseline: str
    metric: str
    mark: str
    horizon: float
    target_value: float
    baseline_value: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Return "better" or "worse", of the target; "open" where the interval holds 0, "unknown" without one."""
        if math.isnan(self.low):
            return "unknown"
        return "better" if self.high < 0 else "worse" if self.low > 0 else "open"

    def sentence(self, time_unit: str | None = None) -> str:
        """Say who is better, and whether the interval leaves it open; the horizon is in `time_unit`."""
        said = {
            "better": f"the target beats {self.baseline}",
            "worse": f"{self.baseline} beats the target",
            "open": f"the target does not clearly beat {self.baseline}, nor {self.baseline} the target",
            "unknown": f"too little was seen to tell the target from {self.baseline}",
        }
        interval = "" if math.isnan(self.low) else f", 95 % interval {self.low:+.3g} to {self.high:+.3g}"
        unit = f" {time_unit}" if time_unit else ""
        what = f"{self.metric}, mark {self.mark} within {self.horizon:g}{unit}"
        values = f"{self.target_value:.4g} against {self.baseline_value:.4g}"
        return f"{what}: {said[self.verdict]} ({values}; difference {self.difference:+.3g}{interval})"


class _Cells(NamedTuple):
    """Scores of every origin side by side.

    Fields: names: (metric, mark, horizon) of each column; values: (num_origins, columns).
    """

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
        value, low, high = (part.tolist() for part in found)
        for name, interval in zip(cells.names, zip(value, low, high, strict=True), strict=True):
            rows.append(ScoreRow(model, *name, *interval, len(sequence)))
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
    is_few = _too_few(own.names, models[target].outcomes, labels, horizons)
    for baseline, scores in models.items():
        if baseline == target:
            continue
        theirs = _cells(scores, labels, horizons, COMPARED).values
        difference, low, high = _bootstrap(_mean_of(own.values - theirs, sequence), sequence, _NUM_RESAMPLES, seed)
        low, high = (torch.where(is_few, torch.nan, end) for end in (low, high))
        values = (
            own.values.mean(0).tolist(),
            theirs.mean(0).tolist(),
            *(part.tolist() for part in (difference, low, high)),
        )
        found += [Comparison(baseline, *name, *numbers) for name, *numbers in zip(own.names, *values, strict=True)]
    return found


def _too_few(
    names: list[tuple[str, str, float]], outcomes: Tensor, labels: Sequence[str], horizons: Sequence[float]
) -> Tensor:
    """Tell which columns score a yes or no that was nearly always the same, bool (columns,)."""
    fewer = torch.minimum(outcomes.sum(0), (~outcomes).sum(0)) < _FEWEST
    return torch.tensor(
        [
            metric in _BINARY and bool(fewer[labels.index(label), horizons.index(horizon)])
            for metric, label, horizon in names
        ]
    )


def _cells(
    scores: CaseScores, labels: Sequence[str], horizons: Sequence[float], metrics: Sequence[str] | None = None
) -> _Cells:
    """Return the means of a model, or some of them."""
    names: list[tuple[str, str, float]] = []
    columns = []
    for metric, values in scores.means.items():
        if metrics is not None and metric not in metrics:
            continue
        if values.dim() == 1:  # of the next event, whatever its mark
            names.append((metric, ANY, horizons[-1]))
        else:
            names += [(metric, label, horizon) for label in labels for horizon in horizons]
        columns.append(values.reshape(len(values), -1))
    return _Cells(names, torch.cat(columns, 1))


def _mean_of(values: Tensor, sequence: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the mean over origins of values (num_origins, columns), by weights of sequences."""
    places, num = _places(sequence)
    sums = values.new_zeros(num, values.shape[1]).index_add_(0, places, values)
    counts = torch.bincount(places, minlength=num).double()
    return lambda weights: (weights @ sums) / (weights @ counts)


def _bootstrap(
    statistic: Callable[[Tensor], Tensor], sequence: Tensor, num_resamples: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, low and high; no interval where there is one sequence only."""
    num = _places(sequence)[1]
    if num < 2:
        value = statistic(torch.ones(num, dtype=torch.float64)).double()
        return value, torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    found = bootstrap_interval(statistic, num, num_resamples=num_resamples, seed=seed)
    return found.value, found.lower, found.upper


def _places(sequence: Tensor) -> tuple[Tensor, int]:
    """Number the sequences that have origins: (num_origins,), from 0, and how many there are."""
    known, places = sequence.unique(return_inverse=True)
    return places, len(known)


def _others(
    scores: CaseScores, labels: Sequence[str], horizons: Sequence[float], sequence: Tensor, seed: int
) -> Iterator[tuple[tuple[str, str, float], tuple[float, float, float]]]:
    """Yield the scores that are no means over origins."""
    for a, label in enumerate(labels):
        for b, horizon in enumerate(horizons):
            probs, came = scores.probs[:, a, b], scores.outcomes[:, a, b]
            yield ("auroc", label, horizon), _area(probs, came, sequence, seed)
            parts = brier_decomposition(probs, came)._asdict()
            for (name, part), (low, high) in zip(parts.items(), _part_ends(probs, came, sequence, seed), strict=True):
                yield (f"brier_{name}", label, horizon), (float(part), low, high)
            for name in ("count", "first_time"):
                pits = getattr(scores, f"{name}_pits")[:, a, b]
                yield (f"ks_of_{name}_pit", label, horizon), _distance(pits, sequence, seed)
    places = _places(sequence)[0]
    for maps, horizon in zip(scores.temporal_maps, horizons, strict=True):

        def values(weights: Tensor, maps: TemporalMaps = maps) -> Tensor:
            return maps.values(weights[places])

        found = torch.stack(_bootstrap(values, sequence, _NUM_RESAMPLES_OF_RANKS, seed), 1)
        for label, (value, low, high) in zip(labels, found.tolist(), strict=True):
            yield ("temporal_map", label, horizon), (value, low, high)
    yield ("ks_of_next_time_pit", ANY, horizons[-1]), _distance(scores.next_time_pits, sequence, seed)


def _area(probs: Tensor, came: Tensor, sequence: Tensor, seed: int) -> tuple[float, float, float]:
    """Return AUROC and its interval; nothing where it always happened, or never."""
    if not 0 < int(came.sum()) < len(came):
        return (math.nan,) * 3
    places = _places(sequence)[0]
    found = _bootstrap(lambda w: auroc(probs, came, w[places]), sequence, _NUM_RESAMPLES_OF_RANKS, seed)
    value, low, high = (float(part) for part in found)
    return value, low, high


def _part_ends(probs: Tensor, came: Tensor, sequence: Tensor, seed: int) -> list[tuple[float, float]]:
    """Return the ends of the intervals of the parts of the Brier score."""
    places = _places(sequence)[0]

    def parts(weights: Tensor) -> Tensor:
        return torch.stack(brier_decomposition(probs, came, weights=weights[places]))

    _, low, high = _bootstrap(parts, sequence, _NUM_RESAMPLES_OF_RANKS, seed)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _distance(pits: Tensor, sequence: Tensor, seed: int) -> tuple[float, float, float]:
    """Return the distance of PITs from uniform ones, and its interval."""
    pits, order = pits.sort()
    places = _places(sequence)[0][order]
    found = _bootstrap(lambda w: ks_distance(pits, w[places]), sequence, _NUM_RESAMPLES_OF_RANKS, seed)
    return ks_uniform(pits).statistic, float(found[1]), float(found[2])
