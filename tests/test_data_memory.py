"""What reading holds in memory: columns are let go, and what is computed in blocks is what the whole gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest

from tppsd.data import log, sequence_table
from tppsd.data.arrow import OpenTable
from tppsd.data.log import flatten, inter_times
from tppsd.data.memory import wanted
from tppsd.data.obstacles import DataError
from tppsd.data.options import Context, ReadOptions
from tppsd.data.reading import read_dataset
from tppsd.data.sequence_table import block_edges, check_values
from tppsd.data.sequences import EventSequence
from tppsd.data.tables import from_sequences
from tppsd.data.units import Clock


def test_a_frame_that_changes_later_changes_no_sequence() -> None:
    """Numbers of pandas reach Arrow without a copy. Mutant: `plain` returns the only chunk of a column as it is."""
    times, marks = np.arange(1.0, 5.0), np.array([0, 1, 1, 0])
    frame = pandas.DataFrame({"sequence": [0, 0, 1, 2], "time": times, "mark": marks}, copy=False)
    train = read_dataset(frame, fractions=(0.4, 0.3, 0.3)).sequences("train")
    times[:], marks[:] = 0, 0
    assert train[0].event_times.tolist() == [1, 2]
    assert train[0].marks.tolist() == [0, 1]


@pytest.mark.parametrize("lists", [False, True])
def test_columns_are_let_go_when_they_have_been_read(lists: bool) -> None:
    """A column that the table keeps is in memory twice. Mutant: `keep` does nothing."""
    rows = {"sequence": [0, 0, 1], "time": [0.0, 1.0, 2.0], "mark": [0, 1, 1], "text": ["a", "b", "c"]}
    if lists:
        rows = {"time_since_start": [[0.0, 1.0], [2.0]], "type_event": [[0, 1], [1]], "text": ["a", "b"]}  # type: ignore[dict-item]
    table = OpenTable(pyarrow.table(rows))
    assert flatten("log", table, Context(ReadOptions())) is not None
    assert table.column_names == []


@pytest.mark.parametrize("lists", [False, True])
def test_what_reading_takes_is_known_before_within_a_factor_of_two(tmp_path: Path, lists: bool) -> None:
    """It is compared with what was measured: 21 bytes for each number in a row per event, 15 for each in lists."""
    times = np.random.default_rng(0).exponential(size=(10_000, 8)).cumsum(1)
    marks = np.random.default_rng(1).integers(5, size=(10_000, 8))
    table = pandas.DataFrame({"sequence": np.arange(80_000) // 8, "time": times.ravel(), "mark": marks.ravel()})
    if lists:
        table = pandas.DataFrame({"time_since_start": list(times), "time_since_last": list(times), "type": list(marks)})
    table.to_parquet(tmp_path / "log.parquet")
    measured = (15 if lists else 21) * 3 * 80_000
    found = wanted(tmp_path / "log.parquet")
    assert found is not None and measured / 2 < found < measured * 2


def test_damaged_metadata_of_a_column_end_in_a_sentence_and_not_the_process() -> None:
    """Mutant: asks each column for its number of values, where Arrow throws what nobody can catch."""
    command = [sys.executable, "-m", "tests.fuzz", "data", "--first", "50619", "--cases", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and "1 ended in a sentence" in done.stdout


@pytest.mark.parametrize("num_events", [1, 2, 3, 1000])
def test_blocks_of_sequences_are_all_of_them_in_order(num_events: int) -> None:
    """Each holds at most so many sequences and events, or one sequence; what is computed in blocks is the same."""
    lengths = np.random.default_rng(0).integers(0, 5, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    edges = list(block_edges(offsets, num_events))
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert edges[-1][1] == 50
    for start, stop in edges:
        assert stop - start == 1 or max(stop - start, offsets[stop] - offsets[start]) <= num_events


def test_inter_times_and_checks_in_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block must not take the last event of another for the one before its first."""
    sequences = [EventSequence.of(np.cumsum(np.full(n, 0.1 * n)), t_start=0.0, t_end=9.0) for n in (3, 1, 4, 0, 5)]
    table = from_sequences("log", sequences)
    expected = np.concatenate([one.inter_times.numpy() for one in sequences])
    for module in (log, sequence_table):
        monkeypatch.setattr(module, "block_edges", lambda offsets: block_edges(offsets, 4))
    check_values(table)
    assert inter_times(replace(table, inter_times=None), Clock()) == pytest.approx(expected, abs=1e-15)
    back = replace(table, event_times=np.where(np.arange(13) == 11, 0.1, table.event_times))
    with pytest.raises(DataError, match=r"row 4: event_times\[3\] = 0.1 comes before the event at 1.5"):
        check_values(back)
