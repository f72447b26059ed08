"""Distances between samples of the next event and between event sequences, against scipy's assignment and
Wasserstein."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metric_cases import SEQUENCES
from metric_oracles import transport_by_assignment
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import (
    earth_movers_distance,
    transport_by_mark,
    transport_distance,
    wasserstein_distance,
)


def draws(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).exp()


def marks(n: int, num_marks: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(num_marks, (n,), generator=torch.Generator().manual_seed(seed))


# --- the next event --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (7, 7), (50, 31)])
def test_wasserstein_agrees_with_scipy(n: int, m: int) -> None:
    for first, second in (
        (draws(n), 0.2 + draws(m, 1)),
        (draws(n).round(), draws(m, 1).round()),
    ):  # the second with ties
        assert wasserstein_distance(first, second) == pytest.approx(
            stats.wasserstein_distance(first, second), rel=1e-12
        )


def test_wasserstein_of_a_shift_of_itself_and_of_extremes() -> None:
    x = draws(40)
    assert wasserstein_distance(x, x.flip(0)) == 0
    assert wasserstein_distance(x, x + 3) == pytest.approx(3, rel=1e-12)
    extremes = torch.tensor([1e-9, 1e9], dtype=torch.float64)
    assert wasserstein_distance(extremes, extremes.flip(0)) == 0
    assert wasserstein_distance(extremes[:1], extremes[1:]) == 1e9
    assert wasserstein_distance(extremes, extremes[:1]) == 5e8


@pytest.mark.parametrize("ground", ["index", "discrete"])
def test_earth_movers_distance_is_the_cheapest_assignment(ground: str) -> None:
    for seed in range(5):
        first, second = marks(30, seed=seed).numpy(), marks(30, 4, seed=seed + 50).numpy()
        gaps = np.abs(first[:, None] - second)
        cost = gaps if ground == "index" else (gaps > 0).astype(float)
        expected = cost[linear_sum_assignment(cost)].mean()
        found = earth_movers_distance(torch.tensor(first), torch.tensor(second), ground)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, rel=1e-12)


def test_names_of_marks_matter_to_the_index_cost_only() -> None:
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])
    far_first, far_second = first * 7, second * 7  # mark 1 is now called 7
    assert earth_movers_distance(far_first, far_second, "discrete") == earth_movers_distance(first, second, "discrete")
    assert earth_movers_distance(far_first, far_second) == pytest.approx(7 * earth_movers_distance(first, second))


def test_unequal_sample_sizes_of_one_distribution_of_marks_are_at_no_distance() -> None:
    for ground in ("index", "discrete"):
        assert earth_movers_distance(marks(10), marks(10).repeat(3), ground) == 0  # type: ignore[arg-type]


def test_impossible_samples_are_named() -> None:
    with pytest.raises(ValueError, match="both samples need at least one draw"):
        wasserstein_distance(draws(0), draws(3))
    with pytest.raises(ValueError, match="infinite or NaN"):
        wasserstein_distance(draws(3), torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="ground = 'euclidean' is unknown; choose 'index'"):
        earth_movers_distance(marks(3), marks(3), "euclidean")  # type: ignore[arg-type]


# --- event sequences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [1e-3, 0.3, 1.0, 50.0])
def test_transport_is_the_cheapest_assignment_with_dummies(cost: float) -> None:
    for first, second in zip(*SEQUENCES, strict=True):
        expected = transport_by_assignment(first, second, cost)
        assert float(transport_distance(first, second, [cost])) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_transport_by_mark_is_that_of_the_events_of_a_mark_and_adds_up() -> None:
    first, second = (rows[0] for rows in SEQUENCES)
    by_mark = transport_by_mark(first, second, 6, [0.2, 1.0])
    torch.testing.assert_close(by_mark.sum(0), transport_distance(first, second, [0.2, 1.0]))

    def of_mark(s: EventSequence, mark: int) -> EventSequence:
        return EventSequence.of(s.event_times[s.marks == mark], None, 0.0)

    for mark in range(6):
        alone = transport_distance(of_mark(first, mark), of_mark(second, mark), [0.2, 1.0])
        torch.testing.assert_close(by_mark[mark], alone)
    assert (by_mark[5] == 0).all()  # a mark that neither has


def test_transport_is_a_metric_of_sequences() -> None:
    (a, b, c), (d, *_) = SEQUENCES[0][1:4], SEQUENCES[1]
    assert (transport_distance(a, a) == 0).all()
    torch.testing.assert_close(transport_distance(a, b), transport_distance(b, a))
    for x, y, z in ((a, b, c), (b, d, a), (c, a, d)):
        assert (transport_distance(x, z) <= transport_distance(x, y) + transport_distance(y, z) + 1e-12).all()


def test_transport_of_one_event_of_none_and_of_extremes() -> None:
    empty = EventSequence.of([], t_start=0.0)
    early, late = (EventSequence.of([t], [2], t_start=0.0) for t in (1e-9, 1e9))
    other_mark = EventSequence.of([1e-9], [1], t_start=0.0)
    costs = [0.5, 1e12]
    assert transport_distance(empty, empty, costs).tolist() == [0.0, 0.0]
    assert transport_distance(empty, early, costs).tolist() == transport_distance(early, empty, costs).tolist() == costs
    assert transport_distance(early, late, costs).tolist() == [1.0, 1e9]  # deleted and inserted, or moved
    assert transport_distance(early, other_mark, costs).tolist() == [1.0, 2e12]


def test_a_given_first_event_is_no_event_of_the_window() -> None:
    alike = EventSequence.of([4.0], [0], t_start=3.0)
    for mark in (0, 1):  # one that is to be compared, and one that is not
        given = EventSequence.of([3.0, 4.0], [mark, 0])
        assert (transport_distance(given, alike) == 0).all() and (transport_distance(alike, given) == 0).all()


def test_long_sequences_agree_with_the_assignment() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = (
        EventSequence((30 * torch.rand(n, dtype=torch.float64, generator=g)).sort().values, marks(n, 2), 0.0, 30.0)
        for n in (150, 90)
    )
    expected = [transport_by_assignment(first, second, c, 2) for c in (0.05, 0.5)]
    assert transport_distance(first, second, [0.05, 0.5]).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("costs", [[], [0.0], [1.0, -1.0], [math.nan]])
def test_impossible_costs_are_refused(costs: list[float]) -> None:
    with pytest.raises(ValueError, match="must be positive numbers"):
        transport_distance(*(rows[0] for rows in SEQUENCES), costs)
