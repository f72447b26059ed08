"""EventSequence: what is accepted, what is refused and in which words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tppsd.data.sequences import EventSequence


@pytest.mark.parametrize("container", [list, tuple, np.asarray, torch.tensor])
def test_lists_and_arrays_become_float64_times_and_int64_marks(container: Callable[[list], Any]) -> None:
    sequence = EventSequence.of(container([0.5, 1.5, 4.0]), container([2, 0, 1]), t_start=0)
    assert sequence.event_times.dtype == torch.float64 and sequence.marks.dtype == torch.int64
    assert sequence.event_times.tolist() == [0.5, 1.5, 4.0] and sequence.marks.tolist() == [2, 0, 1]
    assert sequence.t_start == 0.0 and isinstance(sequence.t_start, float)


def test_without_marks_the_events_are_unmarked() -> None:
    assert EventSequence.of([1.0, 2.0]).marks.tolist() == [0, 0]


def test_inter_times_start_at_the_window_or_at_a_given_first_event() -> None:
    times = [1.0, 1.5, 4.0]
    assert EventSequence.of(times, t_start=0.25).inter_times.tolist() == [0.75, 0.5, 2.5]
    given = EventSequence.of(times)
    assert given.first_is_given and given.inter_times.tolist() == [0.0, 0.5, 2.5]
    assert (len(given), given.num_scored) == (3, 2)


def test_the_window_ends_where_it_is_said_or_at_the_last_event() -> None:
    assert EventSequence.of([1.0, 2.0], t_end=5.0).window_end == 5.0
    assert EventSequence.of([1.0, 2.0]).window_end == 2.0
    assert EventSequence.of([], t_start=3.0).window_end == 3.0
    assert EventSequence.of([1.0, 2.0]).window_start == 1.0


def test_an_empty_window_is_a_sequence() -> None:
    empty = EventSequence.of([], [], t_start=0.0, t_end=2.0)
    assert (len(empty), empty.num_scored, empty.inter_times.tolist()) == (0, 0, [])


def test_ties_are_kept_as_they_are() -> None:
    assert EventSequence.of([1.0, 1.0], t_start=1.0).inter_times.tolist() == [0.0, 0.0]


def test_carried_inter_times_are_not_differenced_again() -> None:
    """At t = 1e9 an inter-time of 1e-9 vanishes from the times."""
    times = torch.tensor([1e9, 1e9], dtype=torch.float64)
    carried = torch.tensor([1e9, 1e-9], dtype=torch.float64)
    sequence = EventSequence(times, torch.zeros(2, dtype=torch.int64), t_start=0.0, inter_times=carried)
    assert sequence.inter_times.tolist() == [1e9, 1e-9]
    assert sequence.prefix(2).inter_times.tolist() == [1e9, 1e-9]


def test_a_prefix_is_the_history_observed_until_its_end() -> None:
    sequence = EventSequence.of([1.0, 2.0, 3.0], [0, 1, 2], t_start=0.0, t_end=9.0, index=7)
    history = sequence.prefix(2, t_end=2.5)
    assert (history.event_times.tolist(), history.marks.tolist()) == ([1.0, 2.0], [0, 1])
    assert (history.t_start, history.t_end, history.index) == (0.0, 2.5, 7)
    assert sequence.prefix(2).t_end is None
    assert sequence.prefix(0, t_end=0.5).num_scored == 0


def test_the_repr_says_how_many_events_on_which_window() -> None:
    assert (
        repr(EventSequence.of([1.0, 2.0], index=3)) == "EventSequence(2 events on [first event, last event], index=3)"
    )
    assert repr(EventSequence.of([1.0], t_start=0, t_end=2)) == "EventSequence(1 events on [0.0, 2.0], index=0)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": [1.0, 3.0, 2.0]}, r"sequence 5: event_times\[2\] = 2\.0 comes before event_times\[1\] = 3\.0"),
        ({"times": [1.0, math.nan]}, r"sequence 5: event_times\[1\] is nan, not a finite number"),
        ({"times": [1.0, math.inf]}, r"sequence 5: event_times\[1\] is inf, not a finite number"),
        (
            {"times": [1.0, 2.0], "marks": [0]},
            r"sequence 5: event_times has shape \(2,\) and marks \(1,\); both must be \(length,\)",
        ),
        (
            {"times": [[1.0, 2.0]]},
            r"sequence 5: event_times has shape \(1, 2\) and marks \(1, 2\); both must be \(length,\)",
        ),
        (
            {"times": [1.0, 2.0], "marks": [0, -1]},
            r"sequence 5: marks\[1\] = -1 is negative; marks are 0\.\.num_marks-1",
        ),
        ({"times": []}, r"sequence 5: has no events and no t_start; an empty window needs a t_start"),
        (
            {"times": [1.0], "t_start": 1.5},
            r"sequence 5: t_start = 1\.5 must be finite and not after the first event at 1\.0",
        ),
        ({"times": [1.0], "t_start": math.nan}, r"sequence 5: t_start = nan must be finite"),
        ({"times": [1.0, 2.0], "t_end": 1.5}, r"sequence 5: t_end = 1\.5 must be finite and not before 2\.0"),
        ({"times": [], "t_start": 2.0, "t_end": 1.5}, r"sequence 5: t_end = 1\.5 must be finite and not before 2\.0"),
        ({"times": [1.0], "t_end": math.inf}, r"sequence 5: t_end = inf must be finite"),
    ],
)
def test_what_cannot_be_a_sequence_is_refused_with_its_index_and_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventSequence.of(**arguments, index=5)


@pytest.mark.parametrize(
    ("inter_times", "message"),
    [
        (
            [1.0, 1.0, 77.0],
            r"sequence 5: inter_times has shape \(3,\); it must have one entry for each of the 2 events",
        ),
        ([1.0, math.nan], r"sequence 5: inter_times\[1\] = nan; it must be a finite number of at least 0"),
        ([-1.0, 1.0], r"sequence 5: inter_times\[0\] = -1\.0; it must be a finite number of at least 0"),
    ],
)
def test_carried_inter_times_must_fit(inter_times: list[float], message: str) -> None:
    times, marks = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        EventSequence(times, marks, 0.0, None, 5, torch.tensor(inter_times, dtype=torch.float64))


def test_marks_that_are_not_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"sequence 5: marks are torch\.float64; they must be torch\.int64"):
        EventSequence(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), index=5)
    with pytest.raises(
        TypeError, match=r"sequence 0: marks are torch\.float32; they must be integers 0\.\.num_marks-1"
    ):
        EventSequence.of([1.0], [0.5])


# --- given events and the scored part --------------------------------------------------------------------------------

TIMES = [1.0, 2.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("arguments", "num_given", "scored_from"),
    [
        ({"t_start": 0.0}, 0, 0.0),
        ({}, 1, 1.0),  # a first event without a t_start
        ({"t_start": 0.0, "score_start": 1.5}, 1, 1.5),
        ({"t_start": 0.0, "score_start": 2.0}, 1, 2.0),  # score_start <= t is scored
        ({"t_start": 0.0, "score_start": 2.5}, 3, 2.5),
        ({"score_start": 2.5}, 3, 2.5),
        ({"score_start": 0.5}, 1, 1.0),
        ({"t_start": 0.0, "score_start": -1.0}, 0, 0.0),
        ({"t_start": 0.0, "score_start": 4.5, "t_end": 5.0}, 4, 4.5),
        ({"t_start": 0.0, "score_start": 6.0, "t_end": 5.0}, 4, 5.0),  # the window ends before anything is scored
        ({"t_start": 0.0, "score_start": 6.0}, 4, 4.0),
        ({"t_start": 0.0, "score_start": 2.5, "censored_start": True}, 3, 2.5),
        ({"t_start": 0.0, "score_start": 0.5, "censored_start": True}, 1, 1.0),  # no event in the lookback
        ({"t_start": 0.0, "censored_start": True}, 1, 1.0),
    ],
)
def test_events_before_the_score_start_are_given(arguments: dict[str, Any], num_given: int, scored_from: float) -> None:
    sequence = EventSequence.of(TIMES, **arguments)
    assert (sequence.num_given, sequence.num_scored) == (num_given, 4 - num_given)
    assert sequence.scored_from == scored_from
    assert sequence.last_given_time == (TIMES[num_given - 1] if num_given else sequence.window_start)


def test_a_window_that_was_cut_and_has_no_event_scores_nothing() -> None:
    """Its one inter-time begins where the window was cut."""
    empty = EventSequence.of([], t_start=0.0, t_end=3.0, score_start=1.0, censored_start=True)
    assert (empty.num_given, empty.num_scored, empty.scored_from, empty.window_end) == (0, 0, 3.0, 3.0)


def test_a_prefix_scores_what_was_scored_before() -> None:
    sequence = EventSequence.of(TIMES, t_start=0.0, t_end=5.0, score_start=1.5)
    assert sequence.prefix(3).num_scored == 2 and sequence.prefix(1).num_scored == 0
    assert sequence.prefix(1, t_end=1.2).scored_from == 1.2
    cut = EventSequence.of(TIMES, t_start=0.0, censored_start=True)
    assert cut.prefix(2).num_given == 1


def test_the_repr_says_from_when_on_it_is_scored() -> None:
    sequence = EventSequence.of([1.0], t_start=0, t_end=2, score_start=1)
    assert repr(sequence) == "EventSequence(1 events on [0.0, 2.0], scored from 1.0, index=0)"


@pytest.mark.parametrize("score_start", [math.nan, math.inf])
def test_a_score_start_is_a_finite_number(score_start: float) -> None:
    with pytest.raises(ValueError, match=rf"sequence 5: score_start = {score_start} must be a finite number"):
        EventSequence.of([1.0], t_start=0.0, score_start=score_start, index=5)


def test_only_a_window_with_a_start_can_be_cut_there() -> None:
    with pytest.raises(ValueError, match=r"sequence 5: censored_start says .* but t_start is None"):
        EventSequence.of([1.0], censored_start=True, index=5)
