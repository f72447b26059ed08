"""Each mistake in the data gives one sentence with file, row, field, value and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from test_data_reading import Rows, full, write

from tppsd.data.marks import check_mark_names
from tppsd.data.reading import read_dataset

GOOD: dict[str, Any] = {"time_since_start": [0.0, 1.0, 2.0], "type_event": [0, 1, 0]}
NAN, INF = float("nan"), float("inf")
NO_TIME = "it must be a number, or a timestamp in ISO 8601 (another format is named by time_format, such as '%d %B %Y')"


def folder_with(tmp_path: Path, rows: Rows, split: str = "train") -> Path:
    """A data set whose `split` holds `rows`; the other splits are good."""
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.json", rows if name == split else full([GOOD], num_marks=2))
    return tmp_path


def message(path: Path | str, kind: type[Exception] = ValueError, **options: Any) -> str:
    """The error's message, which is one line, with the folder left out."""
    with pytest.raises(kind) as error:
        read_dataset(path, **options)
    text = str(error.value)
    assert "\n" not in text
    return text.replace(f"{path}/", "")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"time_since_start": [0.0, 2.0, 1.0]},
            "test.json, row 1: time_since_start[2] = 1.0 comes before the event at 2.0; "
            "the times of a sequence must not decrease: sort: true sorts them",
        ),
        (
            {"time_since_start": [0.0, NAN, 1.0]},
            "test.json, row 1: time_since_start[1] is nan; it must be a finite number",
        ),
        (
            {"time_since_start": [0.0, 1.0, INF]},
            "test.json, row 1: time_since_start[2] is inf; it must be a finite number",
        ),
        (
            {"time_since_start": [0.0, None, 1.0]},
            "test.json, row 1: time_since_start[1] is missing; it must be a finite number",
        ),
        ({"time_since_start": None}, "test.json, row 1: time_since_start is missing; it must be a list of numbers"),
        (
            {"time_since_start": [0.0, "soon", 1.0]},
            'test.json, row 1: time_since_start = [0.0, "soon", 1.0] mixes types or does not fit the rows before it; '
            "every row of time_since_start must hold the same type",
        ),
        ({"type_event": [0, 2, 0]}, "test.json, row 1: type_event[1] = 2 is out of range; marks must be 0..1"),
        ({"type_event": [0, -1, 0]}, "test.json, row 1: type_event[1] = -1 is out of range; marks must be 0..1"),
        (
            {"type_event": [0, 1.5, 0]},
            "test.json, row 1: type_event[1] = 1.5 has type double; marks must be integers 0..num_marks-1, or strings "
            "(mark_bins makes marks of numbers)",
        ),
        (
            {"type_event": [0, None, 0]},
            "test.json, row 1: type_event[1] is missing; every event needs a mark: "
            "missing_mark: NAME makes it a mark of its own",
        ),
        ({"type_event": None}, "test.json, row 1: type_event is missing; it must be a list of integers or strings"),
        (
            {"type_event": [0, 1]},
            "test.json, row 1: time_since_start has 3 values and type_event has 2; the lengths of a row must agree",
        ),
        (
            {"time_since_last_event": [0.0, 1.0]},
            "test.json, row 1: time_since_start has 3 values and time_since_last_event has 2; the lengths of a row "
            "must agree",
        ),
        (
            {"time_since_last_event": [0.0, -1.0, 1.0]},
            "test.json, row 1: time_since_last_event[1] = -1.0; it must be a finite number of at least 0",
        ),
        (
            {"seq_len": 4},
            "test.json, row 1: time_since_start has 3 values and seq_len says 4; the lengths of a row must agree",
        ),
        ({"seq_len": -4}, "test.json, row 1: seq_len = -4; it must be at least 0"),
        (
            {"dim_process": 5},
            "test.json, row 1: dim_process = 5, but row 0 has 2; every row must have the same number of marks",
        ),
        ({"dim_process": None}, "test.json, row 1: dim_process is missing; it must be an integer"),
        (
            {"time_since_start": [], "type_event": [], "time_since_last_event": [], "seq_len": 0},
            "test.json, row 1: the sequence has no events and no t_start; an empty sequence needs a t_start, or leave "
            "it out",
        ),
        ({"t_start": 0.5}, "test.json, row 1: t_start = 0.5 is later than the first event at 0.0; it must not be"),
        ({"t_end": 1.5}, "test.json, row 1: t_end = 1.5 is earlier than the last event at 2.0; it must not be"),
        (
            {"t_end": INF},
            "test.json, row 1: t_end is inf; it must be a finite number, or empty where the window is not known",
        ),
        (
            {"t_start": "noon"},
            "test.json, row 1: t_start = 'noon' has type string; it must be a number",
        ),
        (
            {
                "time_since_start": [],
                "type_event": [],
                "time_since_last_event": [],
                "seq_len": 0,
                "t_start": 2.0,
                "t_end": 1.0,
            },
            "test.json, row 1: t_end = 1.0 is earlier than the t_start at 2.0; it must not be",
        ),
    ],
)
def test_values(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    good = full([GOOD], num_marks=2)[0] | {"time_since_last_event": [0.0, 1.0, 1.0]}
    assert message(folder_with(tmp_path, [good, good | row], split="test")) == expected


def test_values_of_an_event_table(tmp_path: Path) -> None:
    good = [{"sequence": "a", "time": 1.0, "mark": 0}, {"sequence": "b", "time": 0.5, "mark": 1}]

    def event_message(row: dict[str, Any], **options: Any) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write(folder / "train.csv", [*good, row])
        write(folder / "test.csv", good)
        return message(folder, **options)

    assert event_message({"sequence": "a", "time": 0.75, "mark": 0}) == (
        "train.csv, row 2 (sequence 'a'): time = 0.75 comes before the event at 1.0; the times of a sequence must not "
        "decrease: "
        "sort: true sorts them"
    )
    assert event_message({"sequence": "a", "time": None, "mark": 0}) == (
        "train.csv, row 2: time is missing; it must be a finite number"
    )
    assert event_message({"sequence": "a", "time": "later", "mark": 0}) == (
        "train.csv, row 2: time = 'later' has type string; it must be a number"
    )
    assert event_message({"sequence": "a", "time": 2.0, "mark": 0.5}) == (
        "train.csv, row 2: mark = 0.5 has type double; marks must be integers 0..num_marks-1, or strings "
        "(mark_bins makes marks of numbers)"
    )
    assert event_message({"sequence": "a", "time": 2.0, "mark": -3}) == (
        "train.csv, row 2 (sequence 'a'): mark = -3 is out of range; "
        "marks must be 0..1 (from the training split; a column dim_process would declare more)"
    )
    assert event_message({"sequence": None, "time": 2.0, "mark": 0}) == (
        "train.csv, row 2: sequence is missing; every event needs the id of its sequence"
    )
    assert event_message({"sequence": "a", "time": 2.0, "mark": None}) == (
        "train.csv, row 2: mark is missing; every event needs a mark: missing_mark: NAME makes it a mark of its own"
    )
    assert event_message({"sequence": "a", "time": NAN, "mark": 0}) == (
        "train.csv, row 2 (sequence 'a'): time is nan; it must be a finite number"
    )


def test_windows_of_an_event_table(tmp_path: Path) -> None:
    rows = [
        {"sequence": 5, "time": 1.0, "mark": 0, "t_start": 0.0},
        {"sequence": 5, "time": 2.0, "mark": 0, "t_start": 0.5},
    ]
    assert message(write(tmp_path / "train.csv", rows).parent) == (
        "train.csv, row 1: t_start = 0.5, but row 0 of the same sequence has 0.0; a sequence has one window"
    )
    late = [row | {"t_start": 1.5} for row in rows]
    assert message(write(tmp_path / "train.csv", late).parent) == (
        "train.csv, sequence 5: t_start = 1.5 is later than the first event at 1.0; it must not be"
    )


def test_column_types(tmp_path: Path) -> None:
    def type_message(column: str, values: Any) -> str:
        for split in ("train", "test"):
            pyarrow.parquet.write_table(
                pa.table({"time_since_start": [[0.0, 1.0]], "type_event": [[0, 1]], column: values}),
                tmp_path / f"{split}.parquet",
            )
        return message(tmp_path)

    hint = "(a table with one row per event names its sequences with columns={'sequence': ...})"
    assert type_message("time_since_start", [3.5]) == (
        f"train.parquet, row 0: time_since_start = 3.5 has type double; it must be a list of numbers {hint}"
    )
    assert type_message("type_event", [1]) == (
        f"train.parquet, row 0: type_event = 1 has type int64; it must be a list of integers or strings {hint}"
    )
    assert type_message("time_since_start", [["0.5", "late"]]) == (
        "train.parquet, row 0: time_since_start[1] = 'late' has type string; it must be a number"
    )
    assert type_message("type_event", [[0.0, 1.0]]) == (
        "train.parquet, row 0: type_event[0] = 0.0 has type double; marks must be integers 0..num_marks-1, or strings "
        "(mark_bins makes marks of numbers)"
    )
    assert type_message("type_event", [[True, False]]) == (
        "train.parquet, row 0: type_event[0] = True has type bool; marks must be integers 0..num_marks-1, or strings"
    )
    assert type_message("dim_process", ["two"]) == (
        "train.parquet, row 0: dim_process = 'two' has type string; it must be an integer"
    )
    late = pa.array([5_000_000], pa.int32()).cast(pa.date32())  # days: beyond the years that Python knows
    for column, values in (("dim_process", late), ("time_since_start", late)):
        assert f"train.parquet, row 0: {column} = '" in type_message(column, values)
    assert type_message("dim_process", [0]) == "train.parquet, row 0: dim_process = 0; it must be at least 1"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("10:30:00", f"time = '10:30:00' has type time32[s]; {NO_TIME}"),
        ("5 January 2024 10:30", f"time = '5 January 2024 10:30' has type string; {NO_TIME}"),
    ],
)
def test_time_columns_that_are_no_timestamps(tmp_path: Path, time: str, expected: str) -> None:
    (tmp_path / "events.csv").write_text(f"sequence,time,mark\na,{time},x\na,{time},x\n")
    assert message(tmp_path / "events.csv").endswith(f"events.csv, row 0: {expected}")


@pytest.mark.parametrize("time", ["2024-01-05", "2024-01-05 10:30:00", "2024-01-05T10:30:00Z"])
def test_a_timestamp_that_is_missing(tmp_path: Path, time: str) -> None:
    (tmp_path / "events.csv").write_text(f"sequence,time,mark\na,{time},x\na,,x\n")
    assert message(tmp_path / "events.csv").endswith("events.csv, row 1: time is missing; it must be a time")


def test_inter_times_that_are_durations(tmp_path: Path) -> None:
    durations = pa.array([[None, 1_000_000_001]], pa.list_(pa.duration("ns")))
    table = pa.table({"time_since_start": [[0.0, 1.0]], "type_event": [[0, 1]], "time_since_last_event": durations})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert message(tmp_path) == (
        f"train.parquet, row 0: time_since_last_event[1] = '1000000001' has type duration[ns]; {NO_TIME}"
    )


@pytest.mark.parametrize("time", [2**53 + 1, -(2**53) - 1, 1_700_000_000_123_456_789, 2**63])
def test_integer_times_beyond_float64(tmp_path: Path, time: int) -> None:
    kind = pa.list_(pa.uint64() if time >= 2**63 else pa.int64())
    table = pa.table({"time_since_start": pa.array([[0, time]], kind), "type_event": [[0, 1]]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert message(tmp_path) == (
        f"train.parquet, row 0: time_since_start[1] = {time} is beyond 2^53, where float64 loses digits; "
        "subtract an origin, use a coarser unit, or say with time_format in which unit it counts from 1970"
    )


def test_integer_marks_beyond_int64(tmp_path: Path) -> None:
    table = pa.table({"time_since_start": [[0.0, 1.0]], "type_event": pa.array([[0, 2**63]], pa.list_(pa.uint64()))})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert message(tmp_path) == (
        f"train.parquet, row 0: type_event[1] = {2**63} is out of range; marks must be integers 0..num_marks-1, or "
        "strings"
    )


def test_integer_marks_that_are_ids(tmp_path: Path) -> None:
    rows = [{"sequence": 0, "time": float(i), "mark": mark} for i, mark in enumerate([7, 48_213_000, 7, 52_001])]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.csv", rows)
    assert message(tmp_path) == (
        "train.csv, row 1 (sequence 0): mark = 48213000 is the largest of 3 distinct marks and would make 48213001 of "
        "them; "
        "give IDs as strings such as 'id48213000', which are numbered by type, "
        "or declare the number of marks in a column dim_process"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_of_one_name(tmp_path: Path, suffix: str) -> None:
    def write_table(names: list[str]) -> Path:
        file = tmp_path / f"events{suffix}"
        table = pa.table([["a"], [1.0], [0.5], [0.25], [0]], names=names)
        if suffix == ".csv":
            pyarrow.csv.write_csv(table, file)
        else:
            pyarrow.parquet.write_table(table, file)
        return file

    assert message(write_table(["sequence", "time", "time", "other", "mark"])).endswith(
        f"events{suffix}: 2 columns have the name time; the column that holds 'time' needs a name of its own"
    )
    file = write_table(["sequence", "time", "other", "other", "mark"])  # these two are not read
    assert "of 1 sequences leave the train split empty" in message(file, fractions=(0.4, 0.3, 0.3))


def test_missing_columns_list_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [{"time_since_start": [0.0, 1.0], "kinds": [0, 1], "x": 1}])
    assert message(tmp_path) == (
        "train.json: the column type_event is missing; the columns are time_since_start, kinds, x: say which one it is "
        "with "
        "columns={'mark': 'kinds'}, or declare unmarked events with columns={'mark': None}"
    )
    write(tmp_path / "events.csv", [{"user": 1, "time": 0.5, "mark": 0}])
    assert message(tmp_path / "events.csv").endswith(
        "events.csv: the column sequence or sequence_id or seq_id or seq_idx is missing; the columns are user, time, "
        "mark: "
        "say which one it is with columns={'sequence': 'user'}, or cut one stream of events into windows with "
        "window=..., "
        "such as window='7d'"
    )
    assert message(tmp_path / "events.csv", columns={"sequence": "id"}).endswith(
        "events.csv: columns names 'id' for 'sequence', but the columns are user, time, mark"
    )


def test_column_map_mistakes(tmp_path: Path) -> None:
    file = write(tmp_path / "events.csv", [{"sequence": 1, "seq_id": 1, "time": 0.5, "mark": 0}])
    assert message(file, columns={"type": "mark"}) == (
        "columns has the unknown field 'type'; the fields are time, mark, inter_time, length, num_marks, t_start, "
        "t_end, "
        "score_start, sequence"
    )
    assert message(file).endswith(
        "events.csv: both sequence and seq_id could hold 'sequence'; choose with columns={'sequence': ...}"
    )


def test_unknown_type_of_another_split_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"sequence": 0, "time": 1.0, "mark": name} for name in ("bus", "taxi")])
    write(tmp_path / "dev.csv", [{"sequence": 0, "time": 1.0, "mark": name} for name in ("bus", "tram")])
    assert message(tmp_path) == (
        "dev.csv, row 1 (sequence 0): mark = 'tram' does not occur in the training split; "
        "it must be one of bus, taxi, or the training split must have it; min_mark_count: 1 reads it as 'other'"
    )
    write(tmp_path / "train.csv", [{"sequence": 0, "time": 1.0, "mark": f"line {i}"} for i in range(9)])
    assert message(tmp_path).endswith(
        "it must be one of line 0, line 1, line 2, line 3, line 4, line 5, ..., or the training split must have it; "
        "min_mark_count: 1 reads it as 'other'"
    )
    write(tmp_path / "train.csv", [{"sequence": 0, "time": 1.0, "mark": "tram, " * 10_000}])
    assert "it must be one of tram, tram, tram" in message(tmp_path) and len(message(tmp_path)) < 500


def test_mark_names_that_a_model_does_not_know() -> None:
    def difference(known: str, found: str) -> str:
        with pytest.raises(ValueError) as error:
            check_mark_names(tuple(known), tuple(found), "the target")
        return str(error.value)

    for known, found in [(None, None), (None, ("a",)), (("a",), None), (("a", "b"), ("a", "b"))]:
        check_mark_names(known, found, "the target")
    advice = "a model knows the marks of its training split, in their order"
    assert (
        difference("abc", "bcd")
        == f"the target was trained with the marks a, b, c, but the data have b, c, d; {advice}"
    )
    assert "the marks a, b, but the data have b, a;" in difference("ab", "ba")
    assert "the marks a, b, c, d, e, f, ..., but the data have b, c;" in difference("abcdefg", "bc")
    # the first mark that differs is always shown
    assert "the marks ..., c, d, e, f, g, h, ..., but the data have ..., c, d, e, f, g, x;" in difference(
        "abcdefghi", "abcdefgx"
    )
    assert "the marks ..., c, d, e, f, g, but the data have ..., c, d, e, f, g, h, ...;" in difference(
        "abcdefg", "abcdefghi"
    )


def test_strings_after_integers(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"sequence": 0, "time": 1.0, "mark": 3}])
    write(tmp_path / "test.csv", [{"sequence": 0, "time": 1.0, "mark": "bus"}])
    assert message(tmp_path) == (
        "test.csv, row 0 (sequence 0): mark = 'bus' is a string, but the training split has integer marks"
    )


def test_splits_that_declare_different_numbers_of_marks(tmp_path: Path) -> None:
    write(tmp_path / "train.json", full([GOOD], num_marks=2))
    write(tmp_path / "test.json", full([GOOD], num_marks=3))
    assert message(tmp_path) == "test.json: dim_process = 3, but the training split has 2; they must be equal"


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv"])
def test_empty_split(tmp_path: Path, suffix: str) -> None:
    rows = [{"sequence": 0, "time": 1.0, "mark": 0}]
    for split in ("train", "test"):
        write(tmp_path / f"{split}{suffix}", rows)
    if suffix == ".csv":
        (tmp_path / "validation.csv").write_text("sequence,time,mark\n")
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows)[:0], tmp_path / "validation.parquet")
    else:
        write(tmp_path / f"validation{suffix}", [])
    assert message(tmp_path) == f"validation{suffix}: has no rows; a split needs at least one sequence"


def test_fractions(tmp_path: Path) -> None:
    file = write(tmp_path / "events.json", [GOOD] * 3)
    assert message(file).endswith(
        "events.json: fractions = (0.8, 0.1, 0.1) of 3 sequences leave the test split empty; a split needs at least one"
    )
    for fractions in [(0.5, 0.5), (0.5, 0.2, 0.2), (1.1, -0.05, -0.05), (1.0, 0.0, 0.0), (NAN, 0.1, 0.1)]:
        assert message(file, fractions=fractions) == (
            f"fractions = {fractions} must be three positive shares of train, validation and test that sum to 1"
        )


def test_paths(tmp_path: Path) -> None:
    advice = "no such file or folder; give a folder of split files, one file, or a hub id such as easytpp/taxi"
    for name in ("nowhere", "nowhere.parquet", "easytpp/taxi.parquet"):
        assert message(name, FileNotFoundError) == f"{name}: {advice}"
    assert message(tmp_path, FileNotFoundError) == (
        f"{tmp_path}: no split files; expected train, validation and test as .parquet, .json, .jsonl, .csv, .tsv, "
        ".feather, "
        "found no data file (to cut one file into splits, give its own path)"
    )
    write(tmp_path / "samples.parquet", [GOOD])
    assert ", found samples.parquet (to cut" in message(tmp_path, FileNotFoundError)
    write(tmp_path / "test.json", [GOOD])
    assert message(tmp_path, FileNotFoundError) == (
        "test.json: its data set has no train split; vocabulary, moments and scales come from that split"
    )
    write(tmp_path / "train.json", [GOOD])
    with pytest.raises(ValueError, match="there is no validation split; there is train, test"):
        read_dataset(tmp_path).sequences("val")
    with pytest.raises(ValueError, match="there is no split 'tests'; the splits are train, validation, test"):
        read_dataset(tmp_path).sequences("tests")
    write(tmp_path / "train.jsonl", [GOOD])
    assert message(tmp_path) == (
        f"{tmp_path}: train.json and train.jsonl are both the train split; keep one file or one set of shards"
    )


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    def file_message(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return message(tmp_path / name).replace(f"{tmp_path}/", "")

    assert file_message("a.parquet", "text").startswith("a.parquet: not a readable parquet file: ")
    assert file_message("a.csv", "sequence,time,mark\n1,2\n").startswith("a.csv: not a readable csv file: ")
    advice = "expected an array of objects or one object per line"
    assert file_message("a.jsonl", '{"time_since_start": [0]}\n{"time') == (
        f"a.jsonl, line 2: not valid JSON (Unterminated string starting at); {advice}"
    )
    assert file_message("a.json", '[\n{"time_since_start": [0]},\n{]') == (
        f"a.json, line 3: not valid JSON (Expecting property name enclosed in double quotes); {advice}"
    )
    assert file_message("b.json", "[[1, 2], [3]]") == "b.json, row 0: is [1, 2], not an object with columns"
    assert file_message("a.pkl", "") == (
        "a.pkl: cannot read a .pkl; the formats are .parquet, .json, .jsonl, .csv, .tsv, .feather"
    )


def test_shards_that_are_missing(tmp_path: Path) -> None:
    advice = "copy all of them here, or let the job that writes them finish"
    for split in ("train-00000-of-00002", "validation", "test"):
        write(tmp_path / "copied" / f"{split}.jsonl", [GOOD])
    assert message(tmp_path / "copied") == (
        f"{tmp_path}/copied: the train split has 1 of 2 shards and train-00001-of-00002.jsonl is missing; {advice}"
    )
    for chunk in (0, 1, 2, 4, 6, 9):  # the samples of an interrupted job
        write(tmp_path / "samples" / f"train-{chunk:05d}-of-00010.parquet", [GOOD])
    assert message(tmp_path / "samples") == (
        f"{tmp_path}/samples: the train split has 6 of 10 shards and train-00003-of-00010.parquet is missing; {advice}"
    )


@pytest.mark.parametrize(
    ("names", "extra"),
    [
        (
            ("train-0-of-2", "train-1-of-2", "train-2-of-2"),
            "train-0-of-2",
        ),  # as 1 and 2 of 2, which some writers count from 1
        (("train-0-of-1", "train-5-of-1"), "train-5-of-1"),
        (("train-0-of-2", "train-00-of-2", "train-1-of-2"), "train-0"),
    ],
)
def test_shards_that_are_too_many(tmp_path: Path, names: tuple[str, ...], extra: str) -> None:
    for name in names:
        write(tmp_path / f"{name}.jsonl", [GOOD])
    said = message(tmp_path)
    assert (
        said.startswith(f"{tmp_path}: {extra}") and "is one shard too many of the train split; keep one set of" in said
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.jsonl", "train-00001-of-00003.jsonl"),
        ("train-00000-of-00001.jsonl", "train.jsonl"),
        ("train-0-of-1.json", "train-0-of-1.jsonl"),
        ("Train.json", "train.jsonl"),
        ("dev.json", "validation.json"),
    ],
)
def test_two_tables_for_one_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / name, [GOOD])
    split = "validation" if "dev.json" in names else "train"
    assert message(tmp_path) == (
        f"{tmp_path}: {names[0]} and {names[1]} are both the {split} split; keep one file or one set of shards"
    )


def test_saved_data_set_that_is_not_whole(tmp_path: Path) -> None:
    import datasets

    part = datasets.Dataset.from_list([GOOD])
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path)
    two = datasets.DatasetDict({"train": part, "dev": part, "validation": part})
    two.save_to_disk(tmp_path / "two")
    assert (
        message(tmp_path / "two")
        == f"{tmp_path}/two: has two validation splits, of which validation is one; keep one of them"
    )
    (tmp_path / "train" / "data-00000-of-00001.arrow").unlink()
    assert message(tmp_path).startswith(f"{tmp_path}: has a dataset_dict.json, but `datasets` cannot load the folder: ")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"sequence": 0, "time": 1.0, "mark": "a"}\n{"sequence": 0, "time": 2.0, "mark": "caf\xe9"}\n')
    assert message(file).endswith("events.jsonl, line 2: has the byte 0xe9, which is not UTF-8; save the file as UTF-8")
    (tmp_path / "events.csv").write_bytes(b"sequence,time,mark\n0,1.0,a\n0,2.0,caf\xe9\n")
    assert message(tmp_path / "events.csv").endswith("events.csv: the column mark is not UTF-8; save the file as UTF-8")
    lines = [f"{i},{0.5 * j},a,M\xe1laga" for i in range(10) for j in range(1, 4)]
    (tmp_path / "other.csv").write_bytes("\n".join(["sequence,time,mark,place", *lines]).encode("latin-1"))
    assert len(read_dataset(tmp_path / "other.csv").sequences("train")) == 8, "a column that nobody reads"
    file.write_bytes('{"sequence": 0, "time": 1.0, "mark": "a"}'.encode("utf-16"))
    assert message(file).endswith("events.jsonl, line 1: has the byte 0xff, which is not UTF-8; save the file as UTF-8")


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path / "train-0-of-2.json", [GOOD])
    write(tmp_path / "train-1-of-2.json", [{"time_since_start": "0 1", "type_event": [0, 1]}])
    assert message(tmp_path).startswith(
        "train-0-of-2.json to train-1-of-2.json: the shards of a split must have the same column types: "
    )


def test_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(hub_id: str) -> None:
        raise ConnectionError("Couldn't reach\nthe Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert message("data/taxi", FileNotFoundError) == (
        "data/taxi: no such folder here, and the hub does not give it: Couldn't reach the Hub"
    )
    parts = {"all": datasets.Dataset.from_list([GOOD])}
    monkeypatch.setattr(datasets, "load_dataset", lambda _: datasets.DatasetDict(parts))
    assert message("easytpp/x") == "easytpp/x: none of its splits all is train, validation or test"
    bad = GOOD | {"type_event": [0, -1, 0]}
    parts = dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list([GOOD, bad]))
    monkeypatch.setattr(datasets, "load_dataset", lambda _: datasets.DatasetDict(parts))
    assert message("easytpp/x").startswith("easytpp/x, train split, row 1: type_event[1] = -1 is out of range")


def test_window_options(tmp_path: Path) -> None:
    rows = [{"time_since_start": [1.0, 2.0], "type_event": [0, 1]}]
    folder = folder_with(tmp_path, rows)
    assert message(folder, t_start=INF) == "t_start = inf must be a finite number"
    assert message(folder, t_start=1.5) == (
        "train.json, row 0: t_start = 1.5 is later than the first event at 1.0; it must not be"
    )
    assert (
        message(folder, t_end=1.5)
        == "train.json, row 0: t_end = 1.5 is earlier than the last event at 2.0; it must not be"
    )
    with_column = folder_with(tmp_path / "own", [row | {"t_end": 3.0} for row in rows])
    assert message(with_column, t_end=4.0) == (
        "train.json: has a column t_end and the option t_end = 4.0 is given; "
        "leave out the option, or the column with columns={'t_end': None}"
    )
