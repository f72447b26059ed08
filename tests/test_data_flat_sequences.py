"""Sequences in flat storage: each is what it was, and all of them together say what each says of itself."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from small_models import random_sequence
from windows import OF_FLAT_SEQUENCES

from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.reading import read_dataset
from tppsd.data.sequences import EventSequence

ROWS = [
    random_sequence(6),
    random_sequence(5, seed=1, given=True),
    replace(random_sequence(4, seed=2), t_end=None),
    random_sequence(0, seed=3),
    replace(random_sequence(7, seed=4), score_start=3.5),
    replace(random_sequence(7, seed=5), score_start=1e6),
    replace(random_sequence(3, seed=6), censored_start=True, id="case 6"),
    replace(random_sequence(0, seed=7), censored_start=True),
    replace(random_sequence(4, seed=8), censored_start=True, score_start=4.0),
    EventSequence.of([2.5, 3.0, 3.0, 4.5], [0, 1, 2, 0], t_start=2.0, t_end=6.0, score_start=3.0),
]
OF_EACH = ("first_is_given", "window_start", "window_end", "num_given", "num_scored", "scored_from")


def test_an_item_is_the_sequence_that_went_in() -> None:
    flat = FlatSequences.of(ROWS)
    assert len(flat) == len(list(flat)) == len(ROWS)
    for before, after in zip(ROWS, flat, strict=True):
        for name in EventSequence.__dataclass_fields__:
            old, new = getattr(before, name), getattr(after, name)
            assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new, name
    assert [one.id for one in flat[-4:-2]] == ["case 6", None]
    assert torch.equal(flat[-1].event_times, ROWS[-1].event_times)
    with pytest.raises(IndexError):
        flat[len(ROWS)]


def test_all_together_say_what_each_says() -> None:
    assert_like_each(FlatSequences.of(ROWS))


@pytest.mark.parametrize("wrong", OF_FLAT_SEQUENCES)
def test_wrong_flat_sequences_are_found(wrong: str) -> None:
    with OF_FLAT_SEQUENCES[wrong](), pytest.raises(AssertionError):
        assert_like_each(FlatSequences.of(ROWS))


def assert_like_each(flat: FlatSequences) -> None:
    for name in OF_EACH:
        assert getattr(flat, name).tolist() == [getattr(row, name) for row in ROWS], name
    is_scored = torch.cat([torch.arange(len(row)) >= row.num_given for row in ROWS])
    assert torch.equal(flat.is_scored, is_scored)


def test_a_sequence_is_pickled_without_the_others() -> None:
    flat = FlatSequences.of([random_sequence(2000), random_sequence(3, seed=1)])
    assert len(pickle.dumps(flat[1])) < 5000 < len(pickle.dumps(flat))


def test_what_is_read_is_flat_and_passes_the_checks_that_each_sequence_would() -> None:
    """Sequences of a data set are built without checks: their tables have been checked."""
    data = read_dataset(ROWS)
    sequences = data.sequences("train")
    assert isinstance(sequences, FlatSequences)
    for one in sequences:
        replace(one)  # runs the checks
    with pytest.raises(ValueError, match=r"must not decrease|comes before"):
        read_dataset(
            {"train": [EventSequence.unchecked(**vars(ROWS[0]) | {"event_times": ROWS[0].event_times.flip(0)})]}
        )
