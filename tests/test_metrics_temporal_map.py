"""T-mAP of HoTPP against its definition, threshold by threshold, with maximum matchings of scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from tppsd.metrics.functional import ForecastEvents, match_predictions, temporal_map

NUM_MARKS, HORIZON, DELTAS = 3, 10.0, (0.2, 1.0, 2.5)


def forecasts(num: int, seed: int, num_scores: int | None = None) -> list[ForecastEvents]:
    """Predictions that are the truth, jittered, with some missing and some made up; scores partly right."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(num):
        sizes = torch.randint(0, 12, (2,), generator=generator)
        target_times = (12 * torch.rand(int(sizes[0]), generator=generator, dtype=torch.float64)).sort().values
        target_marks = torch.randint(0, NUM_MARKS, (int(sizes[0]),), generator=generator)
        invented = 12 * torch.rand(int(sizes[1]), generator=generator, dtype=torch.float64)
        jitter = torch.randn(len(target_times), generator=generator, dtype=torch.float64)
        times = torch.cat([(target_times + jitter).abs(), invented])
        scores = torch.randn(len(times), NUM_MARKS, generator=generator, dtype=torch.float64)
        scores[torch.arange(len(target_times)), target_marks] += 1.5
        if num_scores is not None:
            scores = (scores * num_scores).round() / num_scores
        rows.append(ForecastEvents(times, scores, target_times, target_marks))
    return rows


def average_precision(rows: list[ForecastEvents], mark: int, delta: float) -> float:
    """The definition: a maximum matching for every threshold."""
    inside = [(f, f.times < HORIZON, (f.target_times < HORIZON) & (f.target_marks == mark)) for f in rows]
    total = sum(int(is_target.sum()) for _, _, is_target in inside)
    thresholds = torch.cat([f.scores[kept, mark] for f, kept, _ in inside]).unique().flip(0).tolist()
    result, recall_before = 0.0, 0.0
    for threshold in thresholds:
        matched, predicted = 0, 0
        for forecast, kept, is_target in inside:
            times = forecast.times[kept & (forecast.scores[:, mark] >= threshold)]
            graph = (times.unsqueeze(1) - forecast.target_times[is_target]).abs() <= delta
            predicted += len(times)
            if graph.any():
                matched += int((maximum_bipartite_matching(csr_matrix(graph.numpy().astype(np.int8))) >= 0).sum())
        recall = matched / total if total else 0.0
        result += (recall - recall_before) * matched / predicted
        recall_before = recall
    return result


@pytest.mark.parametrize("num_scores", [None, 2], ids=["distinct scores", "equal scores"])
def test_it_is_its_definition(num_scores: int | None) -> None:
    rows = forecasts(12, 0, num_scores)
    result = temporal_map(rows, HORIZON, DELTAS, NUM_MARKS)
    expected = torch.tensor([[average_precision(rows, mark, delta) for delta in DELTAS] for mark in range(NUM_MARKS)])
    torch.testing.assert_close(result.average_precision, expected.double())
    assert 0 < float(result.average_precision.min()) < float(result.average_precision.max()) < 0.95
    numbers = torch.stack([(f.target_marks[f.target_times < HORIZON].bincount(minlength=3)) for f in rows]).sum(0)
    assert float(result.value) == pytest.approx(float(expected.mean()))
    assert float(result.weighted) == pytest.approx(float(expected.mean(1) @ numbers.float() / numbers.sum()))


def one(times: list[float], scores: list[float], targets: list[float]) -> ForecastEvents:
    return ForecastEvents(
        torch.tensor(times),
        torch.tensor(scores).unsqueeze(1),
        torch.tensor(targets),
        torch.zeros(len(targets), dtype=torch.int64),
    )


def test_a_matched_prediction_makes_room_for_the_next() -> None:
    """A mutant that gives each prediction the nearest free target leaves the second one without."""
    row = one([1.0, 0.0], [2.0, 1.0], [0.6, 1.9])
    assert float(temporal_map([row], 10.0, [1.0], 1).value) == 1.0

    def greedy(forecast: ForecastEvents, delta: float) -> Tensor:
        free, hits = forecast.target_times.clone(), []
        for prediction in forecast.scores[:, 0].argsort(descending=True):
            distance = (free - forecast.times[prediction]).abs()
            hits.append(bool(distance.min() <= delta))
            if hits[-1]:
                free[distance.argmin()] = torch.inf
        return torch.tensor(hits)

    assert greedy(row, 1.0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("row", "value"),
    [
        (one([1.0, 5.0], [0.0, 0.0], [1.0, 5.0]), 1.0),
        (one([1.0], [0.0], [1.0, 5.0]), 0.5),  # half the events are missed, all predictions are matched
        (one([1.0, 1.1], [0.0, 1.0], [1.0]), 1.0),  # the second prediction is false, but scored lower
        (one([1.0, 4.0], [0.0, 1.0], [1.0]), 0.5),  # the false one is scored higher
        (one([1.0], [0.0], [3.0]), 0.0),
        (one([9.9, 10.0], [0.0, 5.0], [9.9]), 1.0),  # a prediction at the horizon does not take part
        (one([9.9], [0.0], [9.9, 10.0]), 1.0),  # nor does an event
        (one([], [], [1.0]), 0.0),
    ],
)
def test_simple_cases(row: ForecastEvents, value: float) -> None:
    assert float(temporal_map([row], 10.0, [0.5], 1).value) == value


def test_marks_without_events_count_as_zero_and_without_weight() -> None:
    row = one([1.0], [0.0], [1.0])
    both = ForecastEvents(row.times, row.scores.expand(-1, 2), row.target_times, row.target_marks)
    result = temporal_map([both], 10.0, [0.5], 2)
    assert (float(result.value), float(result.weighted)) == (0.5, 1.0)


def test_long_chains_of_moves_are_followed() -> None:
    """2,000 predictions, each of which pushes all before it one target further."""
    times = torch.arange(2000, dtype=torch.float64).flip(0)
    row = ForecastEvents(
        times,
        torch.arange(2000.0).flip(0).unsqueeze(1),
        times.sort().values + 0.5,
        torch.zeros(2000, dtype=torch.int64),
    )
    assert float(temporal_map([row], 1e9, [0.5], 1).value) == 1.0


@pytest.mark.parametrize("num_scores", [None, 2], ids=["distinct scores", "equal scores"])
def test_a_weight_counts_a_history_several_times(num_scores: int | None) -> None:
    """As a bootstrap draws them: the same as that many copies, among them none."""
    rows, copies = forecasts(6, 1, num_scores), [2, 0, 1, 3, 0, 1]
    repeated = [row for row, num in zip(rows, copies, strict=True) for _ in range(num)]
    expected = temporal_map(repeated, HORIZON, DELTAS, NUM_MARKS)
    found = match_predictions(rows, HORIZON, DELTAS, NUM_MARKS).temporal_map(torch.tensor(copies))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(found.value, temporal_map(rows, HORIZON, DELTAS, NUM_MARKS).value)
