"""Data sets cut to what fits into a given time."""

from __future__ import annotations

import pytest
from small_models import random_sequence

from tppsd.data.remarks import shorten

LENGTHS = [3, 12, 7, 5]


@pytest.fixture
def sequences():
    return [random_sequence(n, seed=i) for i, n in enumerate(LENGTHS)]


def test_without_limits_nothing_is_cut(sequences):
    kept, note = shorten(sequences)
    assert [len(s) for s in kept] == LENGTHS and note == ""


@pytest.mark.parametrize("max_events", [1, 3, 14, 15, 22, 26, 27, 100])
def test_the_first_sequences_up_to_the_limit_are_kept(sequences, max_events):
    kept, note = shorten(sequences, max_events=max_events)
    assert [s.index for s in kept] == list(range(len(kept)))
    assert len(kept) == 1 or sum(len(s) for s in kept) <= max_events
    assert len(kept) == len(LENGTHS) or sum(LENGTHS[: len(kept) + 1]) > max_events
    assert (note == "") == (len(kept) == len(LENGTHS))


def test_what_was_cut_is_said(sequences):
    kept, note = shorten(sequences, max_length=6, max_events=14)
    assert [len(s) for s in kept] == [3, 6] and note == "sequences to their first 6 events and 2 of 4 sequences"
