"""DataStatistics: what a model must know of its training split."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import random_sequence

from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics

SEQUENCES = [
    EventSequence.of([1.0, 3.0, 3.0], [0, 2, 2], t_start=0.0, t_end=5.0),
    EventSequence.of([2.0, 6.0], [1, 0], t_start=1.0),
    EventSequence.of([], [], t_start=0.0, t_end=1.0),
]


def test_moments_are_those_of_the_log_inter_times_with_ties_at_the_floor() -> None:
    statistics = DataStatistics.of(SEQUENCES, num_marks=3, min_inter_time=0.5)
    log_tau = torch.tensor([1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64).log()
    assert statistics.log_mean == pytest.approx(float(log_tau.mean()))
    assert statistics.log_std == pytest.approx(float(log_tau.std(correction=0)))
    assert statistics.time_scale == pytest.approx(8.5 / 5)
    assert (statistics.num_ties, statistics.min_inter_time) == (1, 0.5)


def test_without_a_floor_ties_are_counted_and_left_out_of_the_moments() -> None:
    statistics = DataStatistics.of(SEQUENCES, num_marks=3)
    assert statistics.num_ties == 1
    assert statistics.time_scale == pytest.approx(8 / 4)
    assert statistics.log_mean == pytest.approx(math.log(8) / 4)


def test_events_windows_and_marks_are_counted() -> None:
    statistics = DataStatistics.of(SEQUENCES, num_marks=4)
    assert statistics.num_events == 5
    assert statistics.duration == 5.0 + 5.0 + 1.0
    assert statistics.mark_counts == (2, 1, 2, 0)
    assert statistics.first_mark_counts == (1, 1, 0, 0)
    assert not statistics.first_is_given


def test_given_first_events_count_as_first_marks_only() -> None:
    """No likelihood term, no moment: the window starts at them."""
    given = [EventSequence.of([100.0, 101.0, 103.0], [2, 0, 0]), EventSequence.of([50.0, 54.0], [1, 0])]
    statistics = DataStatistics.of(given, num_marks=3)
    assert statistics.first_is_given
    assert statistics.num_events == 3 and statistics.time_scale == pytest.approx(7 / 3)
    assert statistics.mark_counts == (3, 0, 0) and statistics.first_mark_counts == (0, 1, 1)
    assert statistics.duration == 3.0 + 4.0


def test_equal_inter_times_have_no_spread_to_divide_by() -> None:
    assert DataStatistics.of([EventSequence.of([1.0, 2.0, 3.0], t_start=0.0)], num_marks=1).log_std == 1.0


def test_a_change_of_unit_moves_the_log_mean_and_nothing_dimensionless() -> None:
    rows = [random_sequence(20)]
    hours = [EventSequence.of(r.event_times / 3600, r.marks, r.t_start / 3600, r.t_end / 3600) for r in rows]
    a, b = DataStatistics.of(rows, num_marks=3), DataStatistics.of(hours, num_marks=3)
    assert b.log_mean == pytest.approx(a.log_mean - math.log(3600))
    assert b.log_std == pytest.approx(a.log_std)
    assert b.time_scale == pytest.approx(a.time_scale / 3600)


def test_plain_values_make_the_round_trip() -> None:
    statistics = DataStatistics.of(SEQUENCES, num_marks=3, mark_names=("a", "b", "c"), time_unit="days")
    values = statistics.to_dict()
    assert all(isinstance(v, (int, float, str, bool, list, type(None))) for v in values.values())
    assert DataStatistics.from_dict(values) == statistics


def test_the_horizon_is_the_longest_inter_time_that_was_scored() -> None:
    """Of an inter-time that is given nothing is known; of a checkpoint of before, moments only."""
    rows = [EventSequence.of([1.0, 9.0, 10.0, 12.5], t_start=0.0, t_end=99.0, score_start=9.5)]
    statistics = DataStatistics.of(rows, num_marks=1)
    assert statistics.horizon == statistics.max_inter_time == 2.5
    assert DataStatistics(1, log_mean=0.5, log_std=2.0).horizon == pytest.approx(math.exp(8.5))


def test_what_first_checkpoints_did_not_have_is_left_out_where_it_is_not_known() -> None:
    """So that their content hash stays."""
    later = {"time_origin", "window", "lookback", "max_inter_time"}
    assert not DataStatistics(2).to_dict().keys() & later
    full = DataStatistics(2, time_origin="1970-01-01", window=7.0, lookback=1.0, max_inter_time=3.0)
    assert full.to_dict().keys() >= later and DataStatistics.from_dict(full.to_dict()) == full


def test_a_split_without_scored_events_is_refused() -> None:
    for rows in ([EventSequence.of([], t_start=0.0, t_end=1.0)], [EventSequence.of([3.0])]):
        with pytest.raises(
            ValueError, match="the training split has no event with a likelihood term; at least one is needed"
        ):
            DataStatistics.of(rows, num_marks=1)


def test_a_split_of_nothing_but_ties_needs_a_floor() -> None:
    ties = [EventSequence.of([1.0, 1.0], t_start=1.0)]
    with pytest.raises(
        ValueError, match="every inter-time of the training split is 0; declare a floor with min_inter_time"
    ):
        DataStatistics.of(ties, num_marks=1)
    assert DataStatistics.of(ties, num_marks=1, min_inter_time=0.1).num_ties == 2
