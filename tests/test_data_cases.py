"""Small event logs as people have them, which lie beside the project: each reads to the values in their README."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tppsd.data.reading import EventDataset, read_dataset
from tppsd.data.remarks import remarks
from tppsd.data.sequences import EventSequence

SHARED = Path(__file__).resolve().parents[2] / "shared"
DESK: dict[str, Any] = {"columns": {"sequence": "case", "time": "timestamp", "mark": "activity"}}
DESK |= {"sort": True, "missing_mark": "missing"}


def case(name: str) -> Path:
    """The path of a case; the test is skipped where it is absent."""
    path = SHARED / "cases" / name
    if not path.is_file():
        pytest.skip(f"the case {name} is not beside the project")
    return path


def obstacles(name: str, **options: Any) -> str:
    """What stands in the way of reading a case, without the folder."""
    path = case(name)
    with pytest.raises(ValueError) as error:
        read_dataset(path, **options)
    return str(error.value).replace(f"{path.parent}/", "")


def remark(dataset: EventDataset, words: str) -> str | None:
    """The remark on a data set that has these words."""
    return next((said for said in remarks(dataset) if words in said), None)


def every(dataset: EventDataset) -> list[EventSequence]:
    return [sequence for part in dataset.splits.values() for sequence in part]


class TestHelpDesk:
    def test_one_run_names_all_that_is_to_mend(self) -> None:
        said = obstacles("helpdesk.csv")
        assert "helpdesk.csv: 5 things are to mend:" in said
        assert "columns={'sequence': 'case'}" in said and "columns={'time': 'timestamp'}" in said
        assert "columns={'mark': 'activity'}" in said
        assert "row 26: activity is missing; every event needs a mark, 46 of 5,342 are missing: missing_mark" in said
        assert "(2,318 rows go back): sort: true sorts them" in said
        assert said.endswith(
            "Options that mend them: columns: {sequence: case, time: timestamp, mark: activity}, "
            "missing_mark: missing, sort: true"
        )

    def test_the_options_that_were_named_read_it(self) -> None:
        dataset = read_dataset(case("helpdesk.csv"), **DESK)
        assert sum(map(len, every(dataset))) == 5342 and len(every(dataset)) == 600
        assert dataset.num_marks == 9 and "missing" in (dataset.mark_names or ())
        assert dataset.time_unit == "h" and dataset.time_origin == "2025-03-03T00:00:00"
        assert "53 of 5,342 rows are exact copies of others" in dataset.notes[-1]
        assert sum(map(len, every(read_dataset(case("helpdesk.csv"), **DESK, drop_duplicates=True)))) == 5342 - 53
        assert {sequence.id for sequence in every(dataset)} == {f"TCK-{i:05d}" for i in range(600)}

    def test_it_says_that_cases_end_at_very_different_times(self) -> None:
        said = remark(read_dataset(case("helpdesk.csv"), **DESK), "no end of observation is given")
        assert said is not None and "end at very different times" in said and "t_end: last" in said
        closed = read_dataset(case("helpdesk.csv"), **DESK, t_end="last")
        assert remark(closed, "no end of observation") is None
        assert len({sequence.t_end for sequence in every(closed)}) == 1


class TestUnixStream:
    def test_without_a_window_one_sentence_says_which_option(self) -> None:
        said = obstacles("unix_stream.csv")
        assert "\n" not in said and "cut one stream of events into windows with window=" in said

    @pytest.mark.parametrize("options", [{"window": 86400}, {"window": "1d", "time_format": "s"}])
    def test_windows_tile_the_stream(self, options: dict[str, Any]) -> None:
        dataset = read_dataset(case("unix_stream.csv"), **options)
        windows = every(dataset)
        assert sum(map(len, windows)) == 1000 and len(windows) == 40
        assert sum(window.num_scored for window in windows) == 999, (
            "the first event is given: observation begins with it"
        )
        assert all(first.window_end == second.t_start for first, second in pairwise(windows))

    def test_numbers_stay_seconds_and_timestamps_are_exact(self) -> None:
        seconds = np.loadtxt(case("unix_stream.csv"), skiprows=1, dtype=np.int64)
        numbers = read_dataset(case("unix_stream.csv"), window=86400)
        assert torch.cat([window.event_times for window in every(numbers)]).tolist() == seconds.tolist()
        assert any("looks like s since 1970" in note for note in numbers.notes)
        dated = read_dataset(case("unix_stream.csv"), window="1d", time_format="s")
        stamps = torch.cat([window.timestamps for window in every(dated) if window.timestamps is not None])
        assert stamps.tolist() == (seconds * 10**9).tolist()


def test_dates_as_integers() -> None:
    columns = {"sequence": "customer", "time": "date"}
    assert "date = 19970317 looks like a date, YYYYMMDD" in obstacles("yyyymmdd.csv", columns=columns)
    assert "time_format: '%Y%m%d'" in obstacles("yyyymmdd.csv", columns=columns)
    dataset = read_dataset(case("yyyymmdd.csv"), columns=columns, time_format="%Y%m%d")
    assert dataset.time_unit == "d" and max(float(s.inter_times.max()) for s in every(dataset)) < 400
    assert dataset.sequences("train")[0].event_times[:3].tolist() == [75.0, 82.0, 102.0]


def test_mixed_dates() -> None:
    said = obstacles("mixed_dates.csv", columns={"time": "Date", "mark": None}, window="365d")
    assert "row 700: Date = '1973-04-26T02:58:41.000Z' has another format" in said
    assert "time_format: ['%m/%d/%Y', 'ISO8601'] reads every row" in said
    said = obstacles("mixed_dates.csv", columns={"time": "Date", "mark": None}, window="365d", time_format="%m/%d/%Y")
    assert "row 700: " in said
    formats = ["%m/%d/%Y", "ISO8601"]
    dataset = read_dataset(
        case("mixed_dates.csv"), columns={"time": "Date", "mark": None}, window="365d", time_format=formats
    )
    assert sum(map(len, every(dataset))) == 900


def test_offsets_that_change_within_a_case() -> None:
    dataset = read_dataset(
        case("offsets.csv"),
        columns={"sequence": "case"},
        split_times=("2011-10-30T00:00Z", "2011-10-30T23:00Z"),
        time_unit="h",
        min_mark_count=1,
    )
    gaps = {sequence.id: sequence.inter_times.tolist() for sequence in every(dataset)}
    assert gaps == {"a": [0.0, 3.0, 1.0], "b": [0.0, 4.0, 24.0]}


class TestNanoseconds:
    def test_the_first_row_that_goes_back_is_named(self) -> None:
        said = obstacles("ns_unsorted.csv", columns={"mark": "m"}, window="3650d")
        assert said.startswith("ns_unsorted.csv, row 1: time = 1971-03-06T00:49:42.192796642 comes before")
        assert said.endswith("(179 rows go back): sort: true sorts them")

    def test_no_digit_is_lost(self) -> None:
        dataset = read_dataset(case("ns_unsorted.csv"), columns={"mark": "m"}, window="900d", sort=True)
        stamps = torch.cat([window.timestamps for window in every(dataset) if window.timestamps is not None])
        assert len(stamps) == 400 and (stamps.diff() >= 0).all()
        assert int(stamps[6]) % 10**9 == 473989331
        lines = case("ns_unsorted.csv").read_text().splitlines()[1:]
        expected = sorted(int(np.datetime64(line.split(",")[1], "ns").astype(np.int64)) for line in lines)
        assert stamps.tolist() == expected


def test_duplicates_beside_ties() -> None:
    dataset = read_dataset(case("duplicates.csv"))
    assert "70 of 512 rows are exact copies" in dataset.notes[0]
    kept = read_dataset(case("duplicates.csv"), drop_duplicates=True)
    assert sum(map(len, every(kept))) == 442
    assert sum(int((s.inter_times[1:] == 0).sum()) for s in every(kept)) > 0, "the other ties are real"
    said = remark(dataset, "no event that is scored")
    assert said is not None and "11 of 80 sequences have no event that is scored" in said


def test_semicolons_and_times_before_1970() -> None:
    assert "say delimiter: ';'" in obstacles("semicolons.csv")
    options: dict[str, Any] = {"columns": {"time": "t", "mark": None}, "window": "3650d"}
    dataset = read_dataset(case("semicolons.csv"), delimiter=";", split_times=("1919-11-11", "1969-12-01"), **options)
    stamps = torch.cat([window.timestamps for window in every(dataset) if window.timestamps is not None])
    assert [str(np.datetime64(int(stamp), "ns"))[:19] for stamp in stamps] == [
        "1919-11-10T13:31:03", "1919-11-10T16:02:00", "1969-12-31T14:00:00", "1970-01-01T01:00:00"
    ]  # fmt: skip


class TestTwoClocks:
    def test_the_clock_that_goes_back_is_refused(self) -> None:
        columns = {"time": "exchange", "mark": "action"}
        for options in ({"time_format": "ms", "window": "5min"}, {"window": 300_000}):
            said = obstacles("two_clocks.csv", columns=columns, **options)
            assert said.startswith("two_clocks.csv, row 1: exchange = ") and "(760 rows go back)" in said

    def test_milliseconds_stay_exact_in_windows(self) -> None:
        columns = {"time": "received", "mark": "action"}
        options: dict[str, Any] = {"columns": columns, "time_format": "ms", "window": "5min"}
        dataset = read_dataset(case("two_clocks.csv"), **options, fractions=(0.6, 0.2, 0.2))
        windows = every(dataset)
        received = np.loadtxt(case("two_clocks.csv"), skiprows=1, delimiter=",", usecols=1, dtype=np.int64)
        assert dataset.time_unit == "ms" and sum(map(len, windows)) == 3000
        gaps = torch.cat([window.inter_times[1:] for window in windows])
        inside = np.delete(np.diff(received), np.cumsum([len(window) for window in windows])[:-1] - 1)
        assert gaps.tolist() == inside.tolist()
        assert all(window.window_end - window.window_start <= 300_000 for window in windows)


def test_gapped_observation_is_two_windows_per_item() -> None:
    dataset = read_dataset(case("gapped.csv"), observed=[[0, 12], [20, 30]])
    windows = every(dataset)
    assert len(windows) == 400 and sum(map(len, windows)) == 8636
    duration = sum(window.window_end - window.window_start for window in windows)
    assert sum(window.num_scored for window in windows) / duration == pytest.approx(1.963, abs=5e-4)
    one = every(read_dataset(case("gapped.csv"), t_start=0, t_end=30))
    assert sum(s.num_scored for s in one) / (30 * len(one)) == pytest.approx(1.44, abs=5e-3), "biased by the gap"


def test_order_within_ties() -> None:
    """The times are the same whatever the order within ties; the marks are not."""
    columns = {"sequence": "machine", "time": "hour", "mark": "error"}
    one, other = (every(read_dataset(case(name), columns=columns)) for name in ("ties.csv", "ties_permuted.csv"))
    assert all(torch.equal(a.event_times, b.event_times) for a, b in zip(one, other, strict=True))
    assert not all(torch.equal(a.marks, b.marks) for a, b in zip(one, other, strict=True))
    assert sum(int((sequence.inter_times[1:] == 0).sum()) for sequence in one) == 3065


def test_customers_that_are_still_there_need_an_end() -> None:
    columns = {"sequence": "user", "time": "day"}
    said = remark(read_dataset(case("churn.csv"), columns=columns), "no end of observation is given")
    assert said is not None and "t_end" in said
    dataset = read_dataset(case("churn.csv"), columns=columns, t_end=60)
    assert remark(dataset, "no end of observation") is None and len(every(dataset)) == 300
    ends = [sequence for sequence in every(dataset) if int(sequence.marks[-1]) == 0]
    assert len(ends) == 170 and dataset.num_marks == 6


def test_catalogue_of_earthquakes_as_one_stream_split_by_dates() -> None:
    """The San Jacinto catalogue: what comes before 2009 is context and never scored."""
    path = SHARED / "data" / "sanjac" / "catalog.csv"
    if not path.is_file():
        pytest.skip("the catalogue is not beside the project")
    dataset = read_dataset(
        path,
        columns={"mark": "magnitude"},
        mark_bins=[1, 1.5, 2, 2.5],
        split_times=("2009-01-01", "2014-01-01", "2016-01-01"),
        t_start="2008-01-01",
        t_end="2018-01-01",
        window="7d",
        lookback="28d",
    )
    lines = path.read_text().splitlines()[1:]
    stamps = np.array([line.split(",")[0] for line in lines], dtype="datetime64[ns]")
    edges = np.array(["2009-01-01", "2014-01-01", "2016-01-01", "2018-01-01"], dtype="datetime64[ns]")
    expected = np.diff(np.searchsorted(stamps, edges)).tolist()
    scored = {split: sum(window.num_scored for window in part) for split, part in dataset.splits.items()}
    assert list(scored.values()) == expected and scored["test"] == 4400
    assert [len(part) for part in dataset.splits.values()] == [math.ceil(days / 7) for days in (1826, 730, 731)]
    assert dataset.time_unit == "h" and dataset.time_origin == "2008-01-01T00:00:00"
    assert (dataset.window, dataset.lookback) == (168.0, 672.0)
    assert dataset.mark_names == ("[1, 1.5)", "[1.5, 2)", "[2, 2.5)", "[2.5, inf)")
    for part in dataset.splits.values():
        for window, following in pairwise(part):
            assert window.t_end == following.score_start
            assert following.t_start == following.score_start - 672
