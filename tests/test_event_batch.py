"""EventBatch: right padding, windows, and given first events that are not among the events."""

from __future__ import annotations

import pytest
import torch

from tppsd.data.batch import NO_MARK, EventBatch
from tppsd.data.sequences import EventSequence

SEQUENCES = [
    EventSequence.of([1.0, 2.5, 3.0], [0, 2, 1], t_start=0.0, t_end=4.0, index=4),
    EventSequence.of([5.0, 6.0], [2, 1], index=2),
    EventSequence.of([], [], t_start=1.0, t_end=2.0, index=9),
    EventSequence.of([7.0], [1], t_end=8.0, index=0),
]


@pytest.fixture
def batch() -> EventBatch:
    return EventBatch.from_sequences(SEQUENCES)


def test_events_with_a_likelihood_term_come_first_in_each_row(batch: EventBatch) -> None:
    assert batch.lengths.tolist() == [3, 1, 0, 0]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False], [False] * 3, [False] * 3]
    assert batch.event_times[batch.mask].tolist() == [1.0, 2.5, 3.0, 6.0]
    assert batch.inter_times[batch.mask].tolist() == [1.0, 1.5, 0.5, 1.0]
    assert batch.marks[batch.mask].tolist() == [0, 2, 1, 1]
    assert batch.event_times.dtype == batch.inter_times.dtype == torch.float64


def test_padding_has_times_and_inter_times_that_a_distribution_can_score(batch: EventBatch) -> None:
    assert (batch.event_times[1, 1:] == 6.0).all() and (batch.event_times[2] == 2.0).all()
    assert (batch.inter_times[~batch.mask] == 1).all() and (batch.marks[~batch.mask] == 0).all()


def test_a_given_first_event_is_the_windows_start_and_its_mark(batch: EventBatch) -> None:
    assert batch.start_marks.tolist() == [NO_MARK, 2, NO_MARK, 1]
    assert batch.t_start.tolist() == [0.0, 5.0, 1.0, 7.0]


def test_a_missing_end_is_the_last_events_time(batch: EventBatch) -> None:
    assert batch.t_end.tolist() == [4.0, 6.0, 2.0, 8.0]
    assert batch.last_times.tolist() == [3.0, 6.0, 1.0, 7.0]


def test_rows_can_be_taken_out_again(batch: EventBatch) -> None:
    for row, original in enumerate(SEQUENCES):
        back = batch.sequence(row)
        assert torch.equal(back.event_times, original.event_times)
        assert torch.equal(back.inter_times, original.inter_times)
        assert torch.equal(back.marks, original.marks)
        assert (back.t_start, back.window_end, back.index) == (original.t_start, original.window_end, original.index)


def test_carried_inter_times_survive_the_batch() -> None:
    carried = torch.tensor([1e9, 1e-9], dtype=torch.float64)
    times = torch.tensor([1e9, 1e9], dtype=torch.float64)
    row = EventSequence(times, torch.zeros(2, dtype=torch.int64), t_start=0.0, inter_times=carried)
    batch = EventBatch.from_sequences([row])
    assert batch.inter_times.tolist() == [[1e9, 1e-9]]
    assert batch.sequence(0).inter_times.tolist() == [1e9, 1e-9]


def test_one_sequence_is_a_batch_of_one() -> None:
    assert EventBatch.from_sequences(SEQUENCES[0]).mask.shape == (1, 3)  # type: ignore[arg-type]


def test_a_batch_of_windows_without_events_has_length_zero() -> None:
    batch = EventBatch.from_sequences(SEQUENCES[2:])
    assert batch.event_times.shape == (2, 0) and batch.last_times.tolist() == [1.0, 7.0]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="an EventBatch needs at least one sequence; got an empty list"):
        EventBatch.from_sequences([])


def test_moving_to_a_device_keeps_every_field(batch: EventBatch) -> None:
    assert all(torch.equal(a, b) for a, b in zip(batch.to("cpu"), batch, strict=True))


PARTLY_GIVEN = [
    EventSequence.of([1.0, 2.5, 3.0], [0, 2, 1], t_start=0.0, t_end=4.0, index=4, score_start=2.5),
    EventSequence.of([5.0, 6.0, 6.5], [2, 1, 0], index=2, score_start=6.25),
    EventSequence.of([], [], t_start=1.0, t_end=2.0, index=9, score_start=1.5),
    EventSequence.of([1.0, 2.0], [0, 1], t_start=0.0, index=1, score_start=7.0),
    EventSequence.of([3.0, 3.0], [0, 1], t_start=0.0, t_end=4.0, index=3, score_start=2.0, censored_start=True),
    EventSequence.of([], t_start=0.0, t_end=4.0, index=5, score_start=2.0, censored_start=True),
    *SEQUENCES,
]


def test_given_and_scored_events_are_those_of_the_sequences() -> None:
    batch = EventBatch.from_sequences(PARTLY_GIVEN)
    assert batch.lengths.tolist() == [3, 2, 0, 2, 2, 0, 3, 1, 0, 0]
    assert batch.num_scored.tolist() == [2, 1, 0, 0, 1, 0, 3, 1, 0, 0] == [s.num_scored for s in PARTLY_GIVEN]
    assert batch.num_given.tolist() == [s.num_given - s.first_is_given for s in PARTLY_GIVEN]
    assert torch.equal(batch.scored.sum(1), batch.num_scored) and not (batch.scored & ~batch.mask).any()
    assert batch.event_times[batch.scored].tolist() == [2.5, 3.0, 6.5, 3.0, 1.0, 2.5, 3.0, 6.0]
    assert batch.marks[batch.scored].tolist() == [2, 1, 0, 1, 0, 2, 1, 1]
    assert batch.scored_from.tolist() == [s.scored_from for s in PARTLY_GIVEN]
    assert batch.last_given_times.tolist() == [s.last_given_time for s in PARTLY_GIVEN]


def test_rows_with_given_events_can_be_taken_out_again() -> None:
    batch = EventBatch.from_sequences(PARTLY_GIVEN)
    for row, original in enumerate(PARTLY_GIVEN):
        back = batch.sequence(row)
        assert (back.score_start, back.censored_start) == (original.score_start, original.censored_start)
        assert (back.num_given, back.scored_from) == (original.num_given, original.scored_from)
