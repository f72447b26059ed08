"""Files for other programs: CSEP catalogues, and EasyTPP's JSON, which is read back."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tppsd
from tppsd.cli import main
from tppsd.data.catalogs import write_catalogs
from tppsd.data.interchange import write_csep, write_easytpp
from tppsd.data.reading import read_dataset
from tppsd.data.sequences import EventSequence
from tppsd.processes import PRESETS, Hawkes
from tppsd.sampling.columns import to_table, write_durably
from tppsd.sampling.results import SampledSequences

MAGNITUDES = (1.0, 1.5, 2.0, 2.5)
CATALOGS = [
    EventSequence.of([], [], 10.0, 11.0),
    EventSequence.of([10.25, 10.5], [0, 3], 10.0, 11.0),
    EventSequence.of([], [], 10.0, 11.0),
    EventSequence.of([10.125], [1], 10.0, 11.0),
    EventSequence.of([], [], 10.0, 11.0),
]
CLOCK = {"origin": "2016-01-01", "unit": "d"}


def written(tmp_path: Path, **options) -> Path:
    path = tmp_path / "forecast.csv"
    write_csep(path, CATALOGS, magnitudes=MAGNITUDES, **CLOCK, **options)
    return path


def events(path: Path, number: int) -> tuple[list[str], list[str]]:
    """Return the dates and magnitudes of one catalogue of a file, as text."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["catalog_id"] == str(number) and row["mag"]]
    assert [row["event_id"] for row in rows] == [str(i) for i in range(len(rows))]
    return [row["time_string"] for row in rows], [row["mag"] for row in rows]


def days(dates: list[str], since: str) -> torch.Tensor:
    """Return dates as days since another, float64 (num_events,)."""
    elapsed = np.array(dates, dtype="datetime64[us]") - np.datetime64(since, "us")
    return torch.from_numpy(elapsed.astype(np.int64) / 86_400e6)


def test_the_file_is_what_pycsep_documents(tmp_path: Path) -> None:
    assert written(tmp_path, longitude=-116.5, latitude=33.5).read_text().splitlines() == [
        "lon,lat,mag,time_string,depth,catalog_id,event_id",
        "-116.5,33.5,1.0,2016-01-11T06:00:00.000000,,1,0",
        "-116.5,33.5,2.5,2016-01-11T12:00:00.000000,,1,1",
        "-116.5,33.5,1.5,2016-01-11T03:00:00.000000,,3,0",
        ",,,,,4,",
    ]


def test_no_catalogue_and_empty_ones_differ(tmp_path: Path) -> None:
    """Gaps in catalog_id are empty catalogues; a mutant without the last row loses those at the end."""
    for num_empty, last in ((0, []), (1, [",,,,,0,"]), (3, [",,,,,2,"])):
        path = tmp_path / f"{num_empty}.csv"
        write_csep(path, [EventSequence.of([], [], 0.0, 1.0)] * num_empty, magnitudes=MAGNITUDES, **CLOCK)
        assert path.read_text().splitlines()[1:] == last


@pytest.mark.parametrize("origin", ["2008-01-01", "2008-01-01T00:00:00Z", "2008-01-01T02:00:00+02:00"])
def test_years_of_microseconds_survive(tmp_path: Path, origin: str) -> None:
    """Each date is that of its time to a microsecond, whatever the zone of the origin."""
    times = torch.tensor([0.0, 1.0, 3652.5, 3652.500001], dtype=torch.float64)  # days: 0.1 s apart at the end
    for unit, length in (("d", 1), ("s", 86_400)):
        path = tmp_path / f"{unit}.csv"
        catalog = EventSequence.of(times * length, None, 0.0, 4000.0 * length)
        write_csep(path, [catalog], origin=origin, unit=unit, magnitudes=[1.0])
        dates, magnitudes = events(path, 0)
        assert magnitudes == ["1.0"] * 4
        torch.testing.assert_close(days(dates, "2008-01-01"), times, rtol=0, atol=2e-11)  # a microsecond


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "forecast.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"catalogue 1: has mark 3, but magnitudes are given for marks 0\.\.2"):
        write_csep(path, CATALOGS, magnitudes=MAGNITUDES[:3], **CLOCK)
    with pytest.raises(ValueError, match="unit = 'week' is unknown; choose one of ns, us"):
        write_csep(path, CATALOGS, magnitudes=MAGNITUDES, origin="2016-01-01", unit="week")
    for date in ("11/01/2016", "", "NaT"):
        with pytest.raises(ValueError, match=f"origin = {date!r} is neither a number nor a timestamp such as"):
            write_csep(path, CATALOGS, magnitudes=MAGNITUDES, origin=date, unit="d")
    with pytest.raises(OverflowError):
        write_csep(path, CATALOGS, magnitudes=[1.0, 1.5, 2.0, 10**400], **CLOCK)  # on the way
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["forecast.csv"]


@pytest.mark.parametrize("is_window_known", [True, False])
def test_easytpp_files_have_its_fields_and_are_read_back(tmp_path: Path, is_window_known: bool) -> None:
    sequences = PRESETS["multivariate_hawkes"].process.simulate(20, t_start=5.0, t_end=25.0, seed=0)
    if not is_window_known:
        sequences = [EventSequence.of(s.event_times, s.marks, index=s.index) for s in sequences]
    path = tmp_path / "train.json"
    write_easytpp(path, sequences, 2)
    record = json.loads(path.read_text().splitlines()[0])
    fields = {"dim_process", "seq_idx", "seq_len", "time_since_start", "time_since_last_event", "type_event"}
    assert set(record) == fields | ({"t_start", "t_end"} if is_window_known else set())
    first = float(sequences[0].event_times[0]) - 5.0 if is_window_known else 0.0
    assert [record["time_since_start"][0], record["time_since_last_event"][0]] == pytest.approx([first, first])
    back = [s for split in read_dataset(path).splits.values() for s in split]
    assert len(back) == 20
    for one, other in zip(back, sequences, strict=True):
        assert torch.equal(one.marks, other.marks) and torch.equal(one.inter_times[1:], other.inter_times[1:])
        torch.testing.assert_close(one.event_times, other.event_times - other.window_start, rtol=0, atol=1e-12)
        assert (one.t_start, one.t_end) == ((0.0, 20.0) if is_window_known else (None, None))


def cases(tmp_path: Path) -> Path:
    """A log with names and dates."""
    rows = [f"c{case},2024-01-{day:02d},{'ab'[(case + day) % 2]}" for case in range(10) for day in range(1, 9)]
    (tmp_path / "log.csv").write_text("\n".join(["sequence,time,mark", *rows]) + "\n")
    return tmp_path / "log.csv"


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "OUT.JSON"])
def test_a_log_becomes_records_of_easytpp_that_read_back(tmp_path: Path, name: str, capsys) -> None:
    """Mutant: all splits in one file that does not tell them apart."""
    log, path = cases(tmp_path), tmp_path / "new" / name
    assert main(["convert", str(log), str(path), "--fractions", "[0.5, 0.2, 0.3]", "--t_start", "2024-01-01"]) == 0
    printed = capsys.readouterr().out
    assert "5 train, 2 validation, 3 test sequences, 2 marks" in printed
    assert "are a, b" in printed and "times are in d" in printed
    back, own = read_dataset(path), read_dataset(log, fractions=(0.5, 0.2, 0.3), t_start="2024-01-01")
    for split, part in own.splits.items():
        assert len(back.splits[split]) == len(part)
        for one, other in zip(back.splits[split], part, strict=True):
            assert one.t_start == 0.0 and torch.equal(one.marks, other.marks)
            assert torch.equal(one.event_times, other.event_times)


def test_a_split_is_written_alone_without_a_field_of_its_name(tmp_path: Path) -> None:
    log, path = cases(tmp_path), tmp_path / "dev.json"
    assert main(["convert", str(log), str(path), "--fractions", "[0.5, 0.2, 0.3]", "--split", "validation"]) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    fields = {"dim_process", "seq_idx", "seq_len", "time_since_start", "time_since_last_event", "type_event"}
    assert len(records) == 2 and all(set(record) == fields for record in records)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["LOG"], "give SOURCE and OUT"),
        (["nowhere.csv", "out.txt"], "OUT out.txt must end in .parquet, .arrow, .json or .jsonl"),
        (["nowhere.csv", "out"], "OUT out must end in .parquet, .arrow, .json or .jsonl"),
        (["nowhere.csv", "out.arrow", "--split", "test"], "--split is for EasyTPP's JSON"),
        (["LOG", "out.json", "--split", "tset"], "there is no split 'tset'"),
        (["LOG", "out.json", "--split_times", "[2024-01-03, 2024-01-06]"], "windows begin with events that are given"),
    ],
)
def test_what_cannot_be_converted_is_said_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str, capsys
) -> None:
    """A name that is wrong is said where there is no log to read."""
    monkeypatch.chdir(tmp_path)
    log = cases(tmp_path)
    assert main(["convert", *(str(log) if word == "LOG" else word for word in words)]) == 2
    assert message in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["log.csv"]


# --- samples of predict -----------------------------------------------------------------------------------------------


def sampled(tmp_path: Path, starts: tuple[float, float] = (10.0, 11.0), **changed) -> tuple[SampledSequences, Path]:
    """Return two histories with five paths each, and their folder of two files as `predict` writes them."""
    process = Hawkes([0.5, 0.2, 0.1, 0.1], 0.1, 1.0)
    histories = [EventSequence.of([day + 0.5], [0], day, day + 1.0) for day in starts]
    clock = {"time_unit": "d", "time_origin": "2008-01-01T00:00:00"} | changed
    found = dataclasses.replace(tppsd.sample(process, history=histories, num_sequences=5, horizon=1.0), **clock)
    table = to_table(found)
    for i in range(2):
        write_durably(table.slice(5 * i, 5), tmp_path / "samples" / f"train-{i}-of-2.parquet")
    return found, tmp_path / "samples"


def test_continuations_become_one_catalogue_forecast_of_each_history(tmp_path: Path) -> None:
    """Mutants that mix up histories, paths or the origin of times give other events, or other names of files."""
    found, folder = sampled(tmp_path)
    assert main(["convert", str(folder), str(tmp_path / "out"), "--magnitudes", "[1, 1.5, 2, 2.5]"]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == ["2008-01-12T00-00-00.csv", "2008-01-13T00-00-00.csv"]
    assert found.offsets[-1] > 4  # events to be lost
    for i, path in enumerate(files):
        for number, wanted in enumerate(found[5 * i : 5 * i + 5]):
            dates, magnitudes = events(path, number)
            assert magnitudes == [str(MAGNITUDES[mark]) for mark in wanted.marks]
            torch.testing.assert_close(days(dates, "2008-01-01"), wanted.event_times, rtol=0, atol=1e-10)


def test_samples_that_are_no_forecasts_with_dates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there are no samples"):
        write_catalogs(tmp_path / "nowhere", tmp_path / "out", MAGNITUDES)
    _, folder = sampled(tmp_path, time_origin=None)
    with pytest.raises(ValueError, match="have no dates"):
        write_catalogs(folder, tmp_path / "out", MAGNITUDES)
    (tmp_path / "log.csv").write_text("time,mark\n1,0\n")
    scratch = tppsd.sample(Hawkes(0.5, 0.3, 1.0), num_sequences=2, t_end=1.0)
    with pytest.raises(ValueError, match="continue nothing"):
        write_catalogs(scratch.to_parquet(tmp_path / "scratch.parquet"), tmp_path / "out", MAGNITUDES)
    assert not (tmp_path / "out").exists()


def test_two_histories_that_begin_together_do_not_share_a_file(tmp_path: Path) -> None:
    """Mutant: the second catalogue forecast takes the place of the first."""
    _, folder = sampled(tmp_path, starts=(10.0, 10.0))
    with pytest.raises(ValueError, match=r"history 1 begins when another does, .* one name, 2008-01-12T00-00-00.csv"):
        write_catalogs(folder, tmp_path / "out", MAGNITUDES)
