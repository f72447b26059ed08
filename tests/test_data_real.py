"""The real data sets that lie beside the project, against the statistics that their README files state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tppsd import EventDataModule

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"

# name: (num_marks, (train, validation, test) sequences, training events, ties of scored inter-times in all splits)
EXPECTED = {
    "amazon": (16, (1285, 185, 1851), 59207, 0),
    "earthquake": (7, (3000, 400, 896), 49363, 7),
    "stackoverflow": (22, (1401, 401, 401), 90497, 715),
    "taobao": (17, (1300, 200, 500), 73483, 0),
    "taxi": (10, (1400, 200, 400), 51854, 0),
    "usgs_quakes_3h": (7, (341, 48, 96), 13746, 3),  # the third: a validation event at the very start of its window
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_data(name: str) -> None:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"the data set {name} is not beside the project")
    num_marks, num_sequences, num_events, num_ties = EXPECTED[name]
    given = name != "usgs_quakes_3h"  # the others have no window: their first event is given
    data = EventDataModule(path=str(FOLDER / name), t_start=None if given else 0.0, t_end=None if given else 3.0)
    parts = [data.sequences(split) for split in ("train", "validation", "test")]
    assert data.num_marks == num_marks and tuple(map(len, parts)) == num_sequences
    assert sum(map(len, parts[0])) == num_events

    scored = torch.cat([sequence.inter_times[int(given) :] for part in parts for sequence in part])
    assert int((scored == 0).sum()) == num_ties
    statistics = data.statistics
    assert statistics.first_is_given == given
    assert statistics.num_events == num_events - given * num_sequences[0]
    assert (statistics.min_inter_time > 0) == (num_ties > 0)
    positive = torch.cat([sequence.inter_times[int(given) :] for sequence in parts[0]])
    assert statistics.min_inter_time < float(positive[positive > 0].min())  # the floor moves ties only
    if name == "stackoverflow":
        assert statistics.min_inter_time == 2**-14 and statistics.num_ties == 458  # the times are multiples of 2^-13
    if not given:
        assert all(sequence.window_start == 0 and sequence.window_end == 3 for part in parts for sequence in part)
