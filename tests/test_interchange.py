"""Files for other programs, read back: CSEP catalogues and EasyTPP's JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

import tppsd
from tppsd.cli import main
from tppsd.data.catalogs import write_catalogs
from tppsd.data.interchange import read_csep, write_csep, write_easytpp
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


def read(path: Path, **options) -> list[EventSequence]:
    return read_csep(path, magnitude_edges=MAGNITUDES, t_start=10.0, t_end=11.0, **(CLOCK | options))


def test_the_file_is_what_pycsep_documents(tmp_path: Path) -> None:
    assert written(tmp_path, longitude=-116.5, latitude=33.5).read_text().splitlines() == [
        "lon,lat,mag,time_string,depth,catalog_id,event_id",
        "-116.5,33.5,1.0,2016-01-11T06:00:00.000000,,1,0",
        "-116.5,33.5,2.5,2016-01-11T12:00:00.000000,,1,1",
        "-116.5,33.5,1.5,2016-01-11T03:00:00.000000,,3,0",
        ",,,,,4,",
    ]


def test_gaps_in_catalog_id_are_empty_catalogues(tmp_path: Path) -> None:
    """A mutant that reads only the rows that are there has two catalogues instead of five, and 1.5 events in each."""
    back = read(written(tmp_path))
    assert [len(s) for s in back] == [0, 2, 0, 1, 0] and [s.index for s in back] == [0, 1, 2, 3, 4]
    for one, other in zip(back, CATALOGS, strict=True):
        torch.testing.assert_close(one.event_times, other.event_times, rtol=0, atol=1e-10)
        assert torch.equal(one.marks, other.marks) and (one.t_start, one.t_end) == (10.0, 11.0)
    rows = csv.DictReader(written(tmp_path).read_text().splitlines())
    rows_only = {row["catalog_id"] for row in rows if row["mag"]}
    assert len(rows_only) == 2
    assert len(read(written(tmp_path), num_catalogs=9)) == 9
    with pytest.raises(ValueError, match="has catalog_id 4, but num_catalogs = 3"):
        read(written(tmp_path), num_catalogs=3)


def test_years_of_microseconds_survive(tmp_path: Path) -> None:
    times = torch.tensor([0.0, 1.0, 3652.5, 3652.500001], dtype=torch.float64)  # days: 0.1 s apart at the end
    path = tmp_path / "long.csv"
    write_csep(path, [EventSequence.of(times, None, 0.0, 4000.0)], origin="2008-01-01", unit="d", magnitudes=[1.0])
    back = read_csep(path, origin="2008-01-01", unit="d", magnitude_edges=[1.0], t_start=0.0)[0]
    torch.testing.assert_close(back.event_times, times, rtol=0, atol=2e-11)  # a microsecond
    seconds = read_csep(path, origin="2008-01-01T00:00:00Z", unit="s", magnitude_edges=[1.0], t_start=0.0)[0]
    torch.testing.assert_close(seconds.event_times, times * 86400, rtol=0, atol=2e-6)


def test_magnitudes_fall_into_half_open_bins_and_files_of_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "-125.4, 40.1, 1.49, 2016-01-11T00:40:03.1, 8, 0, 0\n-125.4,40.1,1.5,2016-01-11T01:00:00,8,0,\n,,,,,2,\n"
    )
    back = read(path)
    assert [len(s) for s in back] == [2, 0, 0] and back[0].marks.tolist() == [0, 1]
    assert back[0].event_times[0] == pytest.approx(10 + (40 * 60 + 3.1) / 86400, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1.2,2016-01-11,8,1,\n0,0,1.2,2016-01-11,8,0,\n", "line 2: catalog_id = 0 after 1"),
        ("0,0,0.9,2016-01-11,8,0,\n", r"line 1: mag = 0\.9 lies below the lowest of magnitude_edges, 1"),
        ("0,0,x,2016-01-11,8,0,\n", "line 1: mag = 'x' must be a number"),
        ("0,0,1.2,11/01/2016,8,0,\n", "line 1: time_string = '11/01/2016' must be a date such as"),
        ("0,0,1.2,2016-01-11,8,-1,\n", "line 1: catalog_id = '-1' must be an integer"),
        ("0,0,1.2\n", "line 1: has 3 fields; expected lon,lat"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "forecast.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"catalogue 1: has mark 3, but magnitudes are given for marks 0\.\.2"):
        write_csep(path, CATALOGS, magnitudes=MAGNITUDES[:3], **CLOCK)
    with pytest.raises(ValueError, match="unit = 'week' is unknown; choose one of ns, us"):
        write_csep(path, CATALOGS, magnitudes=MAGNITUDES, origin="2016-01-01", unit="week")
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


def sampled(tmp_path: Path, days: tuple[float, float] = (10.0, 11.0), **changed) -> tuple[SampledSequences, Path]:
    """Two histories with five paths each, in two files as `predict` writes them."""
    process = Hawkes([0.5, 0.2, 0.1, 0.1], 0.1, 1.0)
    histories = [EventSequence.of([day + 0.5], [0], day, day + 1.0) for day in days]
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
        options = {"origin": "2008-01-01", "unit": "d", "magnitude_edges": MAGNITUDES, "t_start": 11.0 + i}
        for got, wanted in zip(read_csep(path, **options), found[5 * i : 5 * i + 5], strict=True):
            assert got.marks.tolist() == wanted.marks.tolist()
            torch.testing.assert_close(got.event_times, wanted.event_times, rtol=0, atol=1e-10)


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
    _, folder = sampled(tmp_path, days=(10.0, 10.0))
    with pytest.raises(ValueError, match=r"history 1 begins when another does, .* one name, 2008-01-12T00-00-00.csv"):
        write_catalogs(folder, tmp_path / "out", MAGNITUDES)
