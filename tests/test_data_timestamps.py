"""Time columns: timestamps are exact in UTC, and what only looks like a number or a timestamp is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tppsd import DataStatistics, EventDataModule, TransformerTPP, load
from tppsd.data.gaps import GapCounts
from tppsd.data.reading import EventDataset, read_dataset
from tppsd.data.units import Clock, duration_in_nanoseconds, known_unit

HALVES = (0.4, 0.3, 0.3)


def table(times: Any, sequences: Any = None, **columns: Any) -> pa.Table:
    """One sequence `a` in three copies a, b, c, so that every split has one."""
    values = list(times) if not isinstance(times, pa.Array) else times
    ids = [name for name in "abc" for _ in range(len(values))] if sequences is None else sequences
    copies = pa.concat_arrays([pa.array(values)] * 3) if sequences is None else pa.array(values)
    return pa.table({"sequence": ids, "time": copies, **columns})


def read(times: Any, **options: Any) -> EventDataset:
    return read_dataset(table(times), **{"fractions": HALVES, **options})


def refusal(times: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        read(times, **options)
    return str(error.value)


def test_zones_are_converted_and_differences_taken_in_utc() -> None:
    """Over the end of summer time 02:30+02:00 comes an hour before 02:30+01:00."""
    dataset = read(["2011-10-29T23:30:00+02:00", "2011-10-30T02:30:00+02:00", "2011-10-30T02:30:00+01:00"])
    assert dataset.sequences("train")[0].inter_times.tolist() == [0.0, 3.0, 1.0]
    assert (dataset.time_unit, dataset.time_origin) == ("h", "2011-10-29T00:00:00")
    assert dataset.sequences("train")[0].event_times.tolist() == [21.5, 24.5, 25.5]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([10**18 + 1, 10**18 + 3, 10**18 + 10**9]).cast(pa.timestamp("ns", "UTC")),
        ["2001-09-09T01:46:40.000000001Z", "2001-09-09T03:46:40.000000003+02:00", "2001-09-09T01:46:41Z"],
    ],
)
def test_no_nanosecond_is_lost(times: Any) -> None:
    sequence = read(times, time_unit="ns").sequences("train")[0]
    assert sequence.inter_times.tolist() == [0.0, 2.0, 999_999_997.0]
    assert sequence.timestamps is not None and sequence.timestamps.tolist() == [10**18 + 1, 10**18 + 3, 10**18 + 10**9]


def test_differences_are_exact_where_float64_times_are_not() -> None:
    """Fifty years in hours resolve some 200 ns; the differences are carried in whole nanoseconds."""
    stamps = pa.array([0, 50 * 365 * 86400 * 10**9 + 1, 50 * 365 * 86400 * 10**9 + 8]).cast(pa.timestamp("ns"))
    sequence = read(stamps, time_unit="s").sequences("train")[0]
    assert sequence.inter_times[2].item() == 7e-9
    assert sequence.event_times.diff()[1].item() != 7e-9, "else this tests nothing"


@pytest.mark.parametrize(
    ("unit", "times"),
    [("s", [1_700_000_000, 1_700_000_060]), ("ms", [1_700_000_000_000, 1_700_000_060_000]),
     ("us", [1_700_000_000_000_000, 1_700_000_060_000_000]), ("s", [1.7e9, 1.7e9 + 60]),
     ("s", [-1_700_000_000, -1_699_999_940])],
)  # fmt: skip
def test_numbers_since_1970(unit: str, times: list[float]) -> None:
    dataset = read(times, time_format=unit)
    assert dataset.time_unit == "min" and dataset.sequences("train")[0].inter_times.tolist() == [0.0, 1.0]
    assert dataset.time_origin == ("2023-11-14T00:00:00" if times[0] > 0 else "1916-02-18T00:00:00")


def test_integers_since_1970_stay_exact() -> None:
    """Microseconds are integers of 16 digits, and 1,000 times that is beyond what float64 holds."""
    stamps = [1_700_000_000_123_457, 1_700_000_000_123_458, 1_700_000_000_123_461]
    sequence = read(stamps, time_format="us").sequences("train")[0]
    assert sequence.timestamps is not None and sequence.timestamps.tolist() == [1000 * stamp for stamp in stamps]
    assert sequence.inter_times.tolist() == [0.0, 1.0, 3.0]


def test_naive_timestamps_are_utc_and_a_note_says_so() -> None:
    naive, zoned = read(["2024-05-01 12:00", "2024-05-01 14:30"]), read(["2024-05-01T12:00Z", "2024-05-01T14:30Z"])
    assert any("without a zone; they are read as UTC" in note for note in naive.notes) and not zoned.notes[1:]
    assert torch.equal(naive.sequences("train")[0].event_times, zoned.sequences("train")[0].event_times)


def test_the_unit_is_the_largest_in_which_the_median_gap_is_at_least_one() -> None:
    second = 10**9
    for gaps, unit in [
        ([1, 5], "ns"),
        ([2000, 0], "us"),
        ([59 * second], "s"),
        ([60 * second], "min"),
        ([1, 3600 * second, 7200 * second], "h"),
        ([90 * 86400 * second], "d"),
        ([0, 0], "s"),
    ]:
        counts = GapCounts()
        counts.add(np.array(gaps))
        assert counts.fitting_unit() == unit
    assert read(["2024-05-01", "2024-05-03"], time_unit="hours").sequences("train")[0].inter_times.tolist() == [0, 48]
    assert "time_unit = 'fortnight' must be one of ns, us, ms, s, min, h, d" in refusal(
        ["2024-05-01", "2024-05-03"], time_unit="fortnight"
    )


def test_an_origin_that_is_given_is_time_0() -> None:
    dataset = read(["2024-05-01", "2024-05-03"], time_unit="d", origin="2024-04-01T00:00+00:00")
    assert dataset.sequences("train")[0].event_times.tolist() == [30.0, 32.0]
    assert dataset.time_origin == "2024-04-01T00:00:00"
    assert "origin = 2024-04-01 is for timestamps" in refusal([1.0, 2.0], origin="2024-04-01")


def test_unit_and_origin_travel_with_the_model(tmp_path: Path) -> None:
    data = EventDataModule(table(["2024-05-01 01:00", "2024-05-01 02:00", "2024-05-01 09:00"]), fractions=HALVES)
    model = TransformerTPP(1, "thp", embed_dim=8, num_components=2)
    model.set_statistics(data.statistics)
    model.save(tmp_path / "model.ckpt")
    statistics = load(tmp_path / "model.ckpt").statistics
    assert (statistics.time_unit, statistics.time_origin) == ("h", "2024-05-01T00:00:00")
    old = {k: v for k, v in statistics.to_dict().items() if k not in ("time_origin", "window", "lookback")}
    assert DataStatistics.from_dict(old).time_origin is None, "checkpoints from before load"


class TestLookAlikes:
    def test_dates_as_integers(self) -> None:
        said = refusal([19971231, 19980101])
        assert "time = 19971231 looks like a date, YYYYMMDD" in said and "time_format: '%Y%m%d'" in said
        assert read([19971231, 19980101], time_format="%Y%m%d").sequences("train")[0].inter_times.tolist() == [0.0, 1.0]
        assert read([19971231, 19980101], time_format="number").sequences("train")[0].inter_times.tolist() == [
            0.0,
            8870.0,
        ]
        assert "YYYYMMDDHHMMSS" in refusal([20240101120000, 20240101120001])
        assert read([19971231, 19979999]).time_unit is None, "99 is no month: these are numbers"

    @pytest.mark.parametrize("factor", [1000, 1_000_000])
    def test_seconds_beside_milliseconds(self, factor: int) -> None:
        said = refusal([1_700_000_000, 1_700_000_100, 1_700_000_200 * factor])
        assert (
            f"row 2: time = {1_700_000_200 * factor} looks like {'ms' if factor == 1000 else 'us'} since 1970" in said
        )
        assert "the rows before it are s, such as 1700000000" in said

    def test_numbers_that_may_be_unix_time_are_noted(self) -> None:
        assert any(
            "looks like ms since 1970, from 2023-11-14" in n for n in read([1_700_000_000_000, 1_700_000_005_000]).notes
        )
        assert not any("1970" in note for note in read([0, 1_700_000_000]).notes)

    def test_day_and_month_are_not_guessed(self) -> None:
        said = refusal(["01/05/2024", "02/05/2024"])
        assert "day and month are not guessed: say which with time_format: '%m/%d/%Y' or '%d/%m/%Y'" in said
        said = refusal(["01/05/2024", "13/05/2024"])
        assert "time = '01/05/2024' is not ISO 8601" in said and "time_format: '%d/%m/%Y' reads every row" in said
        days = read(["01/05/2024", "13/05/2024"], time_format="%d/%m/%Y")
        assert days.sequences("train")[0].inter_times.tolist() == [0.0, 12.0]

    def test_the_first_row_of_another_format_is_named(self) -> None:
        mostly = ["2024-05-01", "2024-05-02", "05/13/2024"]
        said = refusal(mostly)
        assert "row 2: time = '05/13/2024' has another format than the rows before it, such as '2024-05-01'" in said
        assert "row 1: time = 'soon' has another format than '2024-05-01'" in refusal(["2024-05-01", "soon"])
        both = read(mostly, time_format=["ISO8601", "%m/%d/%Y"])
        assert both.sequences("train")[0].inter_times.tolist() == [0.0, 1.0, 11.0]
        assert "row 2: time = '05/13/2024' is not in the format 'ISO8601'" in refusal(mostly, time_format="ISO8601")

    def test_a_zone_in_some_rows_only(self) -> None:
        times = ["2024-05-01T12:00:00Z", "2024-05-01T13:00:00", "2024-05-01T14:00:00+01:00"]
        said = refusal(times)
        assert "row 1: time = '2024-05-01T13:00:00' has no zone, but the rows before it have one" in said
        dataset = read(times, time_format="ISO8601")
        assert dataset.sequences("train")[0].inter_times.tolist() == [0.0, 1.0, 0.0]

    def test_timestamps_that_nanoseconds_cannot_hold(self) -> None:
        assert "is too far away; timestamps are held in nanoseconds" in refusal(
            pa.array([0, 10**13]).cast(pa.timestamp("s"))
        )
        assert "= 1e+30 is too far away" in refusal([1.0, 1e30], time_format="s")

    def test_formats_that_are_none(self) -> None:
        assert "time_format = 'days' must be one of s, ms, us, ns" in refusal([1.0], time_format="days")
        assert "time_format = 's' is for a whole column" in refusal([1.0], time_format=["s", "ISO8601"])

    def test_windows_and_events_have_one_kind_of_times(self) -> None:
        times = table(["2024-05-01", "2024-05-02"], t_end=[5.0] * 6)
        with pytest.raises(ValueError, match="t_end holds numbers, but time timestamps"):
            read_dataset(times, fractions=HALVES)
        mixed = {"train": table(["2024-05-01", "2024-05-02"]), "test": table([1.0, 2.0])}
        with pytest.raises(ValueError, match="time holds numbers, but that of dict, train split timestamps"):
            read_dataset(mixed)


def test_windows_that_are_timestamps() -> None:
    ends = pa.array(["2024-05-02"] * 2 + ["2024-05-03"] * 2 + [None] * 2).cast(pa.timestamp("s"))
    dataset = read_dataset(table(["2024-05-01 06:00", "2024-05-01 12:00"], t_end=ends), fractions=HALVES)
    assert [dataset.sequences(split)[0].t_end for split in dataset.splits] == [24.0, 48.0, None]
    for options in ({"t_start": "2024-05-01", "t_end": "2024-05-02T00:00+02:00"}, {"t_start": 0, "t_end": 22.0}):
        sequence = read(["2024-05-01 06:00", "2024-05-01 12:00"], **options).sequences("train")[0]
        assert (sequence.t_start, sequence.t_end, sequence.inter_times.tolist()) == (0.0, 22.0, [6.0, 6.0])
    assert "t_end = '2024-05-02' is not a number, and the times of the data are numbers" in refusal(
        [1.0, 2.0], t_end="2024-05-02"
    )
    assert "t_end = 'tomorrow' is neither a number nor a timestamp" in refusal(
        ["2024-05-01", "2024-05-02"], t_end="tomorrow"
    )


def test_lists_of_timestamps() -> None:
    times = [["2024-05-01 00:00", "2024-05-01 02:00"], ["2024-05-02 00:00", "2024-05-02 03:00"], ["2024-05-02 00:00"]]
    dataset = read_dataset(pa.table({"time_since_start": times}), columns={"mark": None}, fractions=HALVES)
    assert [part[0].event_times.tolist() for part in dataset.splits.values()] == [[0.0, 2.0], [24.0, 27.0], [24.0]]


def test_durations_and_names_of_units() -> None:
    assert duration_in_nanoseconds("7d") == 7 * 86400 * 10**9 == duration_in_nanoseconds("1w")
    assert (
        duration_in_nanoseconds("1d 12h") == 36 * 3600 * 10**9 and duration_in_nanoseconds("1.5 hours") == 5400 * 10**9
    )
    assert duration_in_nanoseconds("d") is duration_in_nanoseconds("7 parsecs") is duration_in_nanoseconds("") is None
    assert [known_unit(name) for name in ("Days", "sec", "ms", "10,000 s", None)] == ["d", "s", "ms", None, None]
    hours = Clock("h", np.datetime64("2024-05-01", "ns"))
    assert hours.duration("2d", "window") == hours.duration(48, "window") == np.timedelta64(2, "D")
    assert Clock("h").duration("2d", "window") == 48.0
    with pytest.raises(ValueError, match=r"window = '2d' needs the unit of the times.*time_unit"):
        Clock("10,000 s").duration("2d", "window")
    for value in (0, -1, "0d", float("nan"), "soon"):
        with pytest.raises(ValueError, match="window = "):
            hours.duration(value, "window")


def test_times_beyond_all_timestamps_have_none() -> None:
    """Mutants: a cast that warns; a sum that goes round, from 2262 to 1677."""
    origin = np.datetime64("2025-03-01", "ns")
    clock = Clock("d", origin)
    last = (np.iinfo(np.int64).max - origin.astype(np.int64)) / (86400 * 10**9)  # 2262-04-11
    times = np.array([0.0, 1.5, -1.5, last - 1, last + 1, 1.05 * last, 1e6, 1e300, -3e5, np.inf, np.nan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stamps = clock.stamps(times)
    assert stamps[:3].tolist() == [(origin + np.timedelta64(hours, "h")).item() for hours in (0, 36, -36)]
    assert str(stamps[3])[:10] == "2262-04-10" and np.isnat(stamps[4:]).all()
