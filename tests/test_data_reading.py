"""Every format reads to the same sequences; windows, marks, vocabulary and round trips."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tppsd.data.reading import EventDataset, read_dataset

Rows = list[dict[str, Any]]

SPLITS: dict[str, Rows] = {
    "train": [
        {"time_since_start": [0.0, 0.5, 2.0], "time_since_last_event": [0.0, 0.5, 1.5], "type_event": [0, 1, 2]},
        {"time_since_start": [0.0, 0.25], "time_since_last_event": [0.0, 0.25], "type_event": [2, 0]},
    ],
    "validation": [{"time_since_start": [0.0, 1.0], "time_since_last_event": [0.0, 1.0], "type_event": [1, 1]}],
    "test": [{"time_since_start": [0.0, 0.1, 0.3], "time_since_last_event": [0.0, 0.1, 0.2], "type_event": [0, 0, 2]}],
}


def full(rows: Rows, num_marks: int = 3) -> Rows:
    """The rows with all EasyTPP columns."""
    return [
        {"dim_process": num_marks, "seq_idx": i, "seq_len": len(row["time_since_start"])} | row
        for i, row in enumerate(rows)
    ]


def write(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return file


def event_rows(rows: Rows) -> Rows:
    """The same sequences, one row per event."""
    return [
        {"sequence": f"user-{i}", "time": time, "mark": mark}
        for i, row in enumerate(rows)
        for time, mark in zip(row["time_since_start"], row["type_event"], strict=True)
    ]


def assert_is_splits(dataset: EventDataset, splits: dict[str, Rows] = SPLITS) -> None:
    assert list(dataset.splits) == list(splits)
    for split, rows in splits.items():
        sequences = dataset.sequences(split)
        assert [sequence.event_times.tolist() for sequence in sequences] == [row["time_since_start"] for row in rows]
        assert [sequence.marks.tolist() for sequence in sequences] == [row["type_event"] for row in rows]
        assert [sequence.index for sequence in sequences] == list(range(len(rows)))
        for sequence in sequences:
            assert sequence.event_times.dtype == torch.float64 and sequence.marks.dtype == torch.int64


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_folder_of_split_files(tmp_path: Path, suffix: str, validation: str) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / f"{validation if split == 'validation' else split}{suffix}", full(rows))
    dataset = read_dataset(tmp_path)
    assert_is_splits(dataset)
    assert (dataset.num_marks, dataset.mark_names, dataset.name, dataset.notes) == (3, None, tmp_path.name, ())
    assert dataset.sequences(validation) is dataset.sequences("validation")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".jsonl"])
def test_event_table_equals_sequence_table(tmp_path: Path, suffix: str) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}{suffix}", event_rows(rows))
    assert_is_splits(read_dataset(tmp_path))


def test_other_files_are_ignored_with_a_note(tmp_path: Path) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}.parquet", full(rows))
    write(tmp_path / "official_validation.parquet", full(SPLITS["test"]))
    (tmp_path / "README.md").write_text("about")
    dataset = read_dataset(str(tmp_path))
    assert_is_splits(dataset)
    assert dataset.notes == (f"{tmp_path}: ignored official_validation.parquet (not a split file)",)


def test_shards_of_a_split_are_joined(tmp_path: Path) -> None:
    for split, rows in SPLITS.items():
        for i, row in enumerate(full(rows)):
            write(tmp_path / f"{split}-{i:05d}-of-{len(rows):05d}.parquet", [row])
    assert_is_splits(read_dataset(tmp_path))


@pytest.mark.parametrize("first", [0, 1])
def test_shards_numbered_from_zero_or_one(tmp_path: Path, first: int) -> None:
    for split, rows in SPLITS.items():
        for i, row in enumerate(full(rows)):
            write(tmp_path / f"{split}-{i + first}-of-{len(rows)}.json", [row])
    assert_is_splits(read_dataset(tmp_path))


def test_names_in_any_letter_case(tmp_path: Path) -> None:
    for split, name in {"train": "Train.jsonl", "validation": "DEV.PARQUET", "test": "test-00000-of-00001.CSV"}.items():
        write(tmp_path / name.lower(), event_rows(SPLITS[split])).rename(tmp_path / name)
    assert_is_splits(read_dataset(tmp_path))
    dataset = read_dataset(
        tmp_path / "test-00000-of-00001.CSV", fractions=(0.4, 0.3, 0.3), columns={"sequence": "time", "mark": None}
    )
    assert len(dataset.sequences("Train")) == 1


@pytest.mark.parametrize("digest", ["", "-0f1e2d3c4b5a6978"])
def test_split_files_in_a_subfolder_data(digest: str, tmp_path: Path) -> None:
    """The layout of a repository on the hub; older ones have a hash in the names."""
    for split, rows in SPLITS.items():
        write(tmp_path / "data" / f"{split}-00000-of-00001{digest}.parquet", full(rows))
    (tmp_path / "dataset_infos.json").write_text("{}")
    dataset = read_dataset(tmp_path)
    assert_is_splits(dataset)
    assert dataset.name == tmp_path.name
    assert dataset.notes == (f"{tmp_path}: ignored dataset_infos.json (not a split file)",)
    for split in SPLITS:
        write(tmp_path / f"{split}.json", full(SPLITS["train"]))
    assert_is_splits(read_dataset(tmp_path), dict.fromkeys(SPLITS, SPLITS["train"]))  # the folder itself comes first


def test_saved_dataset_dict(tmp_path: Path) -> None:
    import datasets

    names = {"train": "Train", "validation": "dev", "test": "test"}
    parts = {names[split]: datasets.Dataset.from_list(full(rows)) for split, rows in SPLITS.items()}
    datasets.DatasetDict(parts | {"extra": parts["test"]}).save_to_disk(tmp_path / "saved")
    dataset = read_dataset(tmp_path / "saved")
    assert_is_splits(dataset)
    assert dataset.name == "saved" and dataset.notes == (f"{tmp_path / 'saved'}: ignored the splits extra",)


def test_json_text(tmp_path: Path) -> None:
    """A byte-order mark, line separators inside strings, and line ends of any system."""
    rows = [row | {"mark": f"a\u2028b\u0085{row['mark']}"} for row in event_rows(SPLITS["train"])]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for name, text in {"lf": "\n".join(lines), "crlf": "\r\n".join(lines), "array": f"[{', '.join(lines)}]"}.items():
        for split in ("train", "test"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.jsonl").write_bytes(text.encode("utf-8-sig"))
        assert_is_splits(read_dataset(tmp_path / name), dict.fromkeys(("train", "test"), SPLITS["train"]))


def test_folder_of_parquet_parts(tmp_path: Path) -> None:
    """What Spark writes for one table."""
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}.parquet" / "part-0.parquet", full(rows))
    assert_is_splits(read_dataset(tmp_path))


def test_one_file_is_cut_by_fractions_in_file_order(tmp_path: Path) -> None:
    rows = [{"time_since_start": [0.0, 1.0 + i], "type_event": [0, 1]} for i in range(10)]
    file = write(tmp_path / "events.jsonl", rows)
    splits = {"train": rows[:6], "validation": rows[6:8], "test": rows[8:]}
    assert_is_splits(read_dataset(file, fractions=(0.6, 0.2, 0.2)), splits)
    assert [len(part) for part in read_dataset(file).splits.values()] == [8, 1, 1]
    write(tmp_path / "folder" / "train.json", rows)  # a folder with a train split only is the same thing
    assert_is_splits(read_dataset(tmp_path / "folder", fractions=(0.6, 0.2, 0.2)), splits)


def test_event_table_in_one_file_is_cut_by_sequences(tmp_path: Path) -> None:
    rows = [{"time_since_start": [float(i), i + 0.5], "type_event": [i % 2, 0]} for i in range(10)]
    file = write(tmp_path / "events.csv", event_rows(rows))
    assert_is_splits(read_dataset(file), {"train": rows[:8], "validation": rows[8:9], "test": rows[9:]})


def test_interleaved_sequences_of_an_event_table_keep_their_order(tmp_path: Path) -> None:
    rows = [
        {"sequence": s, "time": t, "mark": 0} for s, t in [(7, 1.0), (3, 0.5), (7, 2.0), (3, 0.5), (9, 4.0), (7, 2.0)]
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.parquet", rows)
    sequences = read_dataset(tmp_path).sequences("train")
    assert [sequence.event_times.tolist() for sequence in sequences] == [[1.0, 2.0, 2.0], [0.5, 0.5], [4.0]]


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(hub_id: str) -> datasets.DatasetDict:
        assert hub_id == "easytpp/taxi"
        return datasets.DatasetDict({split: datasets.Dataset.from_list(full(rows)) for split, rows in SPLITS.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = read_dataset("easytpp/taxi")
    assert_is_splits(dataset)
    assert dataset.name == "taxi"


def test_shuffled_hub_data_set_keeps_its_order_and_extra_splits_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    parts = {split: datasets.Dataset.from_list(full(rows)) for split, rows in SPLITS.items()}
    parts["train"] = parts["train"].select([1, 0])  # an indices mapping over the stored table
    parts["unlabelled"] = parts["test"]
    monkeypatch.setattr(datasets, "load_dataset", lambda _: datasets.DatasetDict(parts))
    dataset = read_dataset("someone/events")
    assert_is_splits(dataset, SPLITS | {"train": SPLITS["train"][::-1]})
    assert dataset.notes == ("someone/events: ignored the splits unlabelled",)


def test_column_map(tmp_path: Path) -> None:
    rows = [
        {"user": row["sequence"], "t": row["time"], "kind": row["mark"], "mark": "unused"}
        for row in event_rows(SPLITS["train"])
    ]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "test.csv", rows)
    dataset = read_dataset(tmp_path, columns={"time": "t", "mark": "kind", "sequence": "user"})
    assert_is_splits(dataset, {"train": SPLITS["train"], "test": SPLITS["train"]})

    lists = [{"when": row["time_since_start"], "what": row["type_event"], "K": 5} for row in SPLITS["train"]]
    for split in SPLITS:
        write(tmp_path / "lists" / f"{split}.parquet", lists)
    dataset = read_dataset(tmp_path / "lists", columns={"time": "when", "mark": "what", "num_marks": "K"})
    assert_is_splits(dataset, dict.fromkeys(SPLITS, SPLITS["train"]))
    assert dataset.num_marks == 5


def test_event_table_with_easytpp_names(tmp_path: Path) -> None:
    rows = [
        {"seq_idx": row["sequence"], "time_since_start": row["time"], "type_event": row["mark"]}
        for row in event_rows(SPLITS["train"])
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.csv", rows)
    assert_is_splits(read_dataset(tmp_path, columns={"sequence": "seq_idx"}), dict.fromkeys(SPLITS, SPLITS["train"]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_string_types_are_numbered_by_the_training_split(tmp_path: Path, suffix: str) -> None:
    def named(rows: Rows) -> Rows:
        return [row | {"mark": ("walk", "bus", "taxi")[row["mark"]]} for row in event_rows(rows)]

    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}{suffix}", named(rows))
    dataset = read_dataset(tmp_path)
    assert dataset.mark_names == ("bus", "taxi", "walk") and dataset.num_marks == 3
    assert dataset.sequences("train")[0].marks.tolist() == [2, 0, 1]
    assert dataset.sequences("test")[0].marks.tolist() == [2, 2, 1]


def test_string_types_in_lists_and_pandas_categories(tmp_path: Path) -> None:
    lists = [row | {"type_event": [("b", "a", "c")[mark] for mark in row["type_event"]]} for row in SPLITS["train"]]
    for split in SPLITS:
        write(tmp_path / "lists" / f"{split}.json", lists)
    dataset = read_dataset(tmp_path / "lists")
    assert dataset.mark_names == ("a", "b", "c") and dataset.sequences("test")[0].marks.tolist() == [1, 0, 2]

    table = pa.Table.from_pylist([row | {"mark": "abc"[row["mark"]]} for row in event_rows(SPLITS["train"])])
    for name in ("sequence", "mark"):
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    file = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(table, file)
    pyarrow.parquet.write_table(table, tmp_path / "test.parquet")
    assert_is_splits(read_dataset(tmp_path), dict.fromkeys(("train", "test"), SPLITS["train"]))


def test_digits_are_types_too_if_the_training_split_has_strings(tmp_path: Path) -> None:
    write(
        tmp_path / "train.csv", [{"sequence": 0, "time": 1.0, "mark": "1"}, {"sequence": 0, "time": 2.0, "mark": "x"}]
    )
    write(
        tmp_path / "test.csv", [{"sequence": 0, "time": 1.0, "mark": "1"}]
    )  # a CSV reader takes this column for integers
    assert read_dataset(tmp_path).sequences("test")[0].marks.tolist() == [0]


def test_num_marks_is_declared_or_comes_from_the_training_split(tmp_path: Path) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / "declared" / f"{split}.parquet", full(rows, num_marks=9))
        write(tmp_path / "found" / f"{split}.parquet", rows)
        write(tmp_path / "null" / f"{split}.json", [row | {"dim_process": None} for row in rows])
    assert read_dataset(tmp_path / "declared").num_marks == 9
    assert read_dataset(tmp_path / "found").num_marks == 3
    assert read_dataset(tmp_path / "null").num_marks == 3


def test_large_vocabularies(tmp_path: Path) -> None:
    """Integers up to 20 times as many as occur, and any that the data declare, are marks."""
    marks = [20 * i + 19 for i in range(100)]
    rows: Rows = [{"time_since_start": list(range(100)), "type_event": marks}]
    for split in SPLITS:
        write(tmp_path / "found" / f"{split}.parquet", rows)
        write(tmp_path / "small" / f"{split}.parquet", [{"time_since_start": [0, 1], "type_event": [0, 999]}])
        write(
            tmp_path / "declared" / f"{split}.parquet",
            [{"time_since_start": [0], "type_event": [7], "dim_process": 5000}],
        )
    assert [read_dataset(tmp_path / name).num_marks for name in ("found", "small", "declared")] == [2000, 1000, 5000]


def test_unmarked_events_are_declared(tmp_path: Path) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}.parquet", [row | {"dim_process": 3} for row in rows])
    dataset = read_dataset(tmp_path, columns={"mark": None})
    assert dataset.num_marks == 1 and dataset.sequences("train")[0].marks.tolist() == [0, 0, 0]


def test_first_event_is_given_and_window_ends_at_the_last_without_a_window(tmp_path: Path) -> None:
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}.parquet", full(rows))
    sequence = read_dataset(tmp_path).sequences("train")[0]
    assert sequence.t_start is None and sequence.t_end is None and sequence.first_is_given
    assert sequence.inter_times.tolist() == [0.0, 0.5, 1.5]


def test_window_options(tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path / f"{split}.json", [{"time_since_start": [0.5, 2.0], "type_event": [0, 0]}])
    sequence = read_dataset(tmp_path, t_start=0, t_end=3).sequences("test")[0]
    assert (sequence.t_start, sequence.t_end) == (0.0, 3.0) and not sequence.first_is_given
    assert sequence.inter_times.tolist() == [0.5, 1.5]


def test_window_columns_and_provenance(tmp_path: Path) -> None:
    """The layout of sampled sequences: an own window per sequence, empty sequences, ends that are not known, other
    columns."""
    rows = [
        {
            "time_since_start": [1.5, 2.0],
            "type_event": [0, 1],
            "t_start": 1.0,
            "t_end": 4.0,
            "seed": 0,
            "options": "{}",
        },
        {"time_since_start": [], "type_event": [], "t_start": 2.0, "t_end": 3.0, "seed": 0, "options": "{}"},
        {"time_since_start": [5.0], "type_event": [1], "t_start": None, "t_end": None, "seed": 0, "options": "{}"},
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.parquet", rows)
        write(tmp_path / "json" / f"{split}.json", [row | {"options": {"rule": [1, "x"]}} for row in rows])
    for path in (tmp_path, tmp_path / "json"):
        sequences = read_dataset(path).sequences("train")
        assert [(sequence.t_start, sequence.t_end, len(sequence)) for sequence in sequences] == [
            (1.0, 4.0, 2),
            (2.0, 3.0, 0),
            (None, None, 1),
        ]
        assert sequences[0].inter_times.tolist() == [0.5, 0.5]
    ignored = read_dataset(tmp_path / "json", columns={"t_end": None}, t_end=9).sequences("train")
    assert [sequence.t_end for sequence in ignored] == [9.0, 9.0, 9.0]


def test_window_columns_of_an_event_table(tmp_path: Path) -> None:
    rows = [
        row | {"t_start": -1.0, "t_end": 5.0 if row["sequence"] == "user-0" else 6.0}
        for row in event_rows(SPLITS["train"])
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.csv", rows)
    assert [sequence.t_end for sequence in read_dataset(tmp_path).sequences("train")] == [5.0, 6.0]


def test_inter_times_survive_large_times(tmp_path: Path) -> None:
    """Around 1e9 a float64 time resolves 1e-7: the stored inter-times say more than the differences."""
    inter_times = np.array([0.0, 1e-9, 3e-8, 2.5])
    times = 1e9 + np.cumsum(inter_times)
    rows = [{"time_since_start": times.tolist(), "time_since_last_event": inter_times.tolist(), "type_event": [0] * 4}]
    for split in SPLITS:
        write(tmp_path / f"{split}.parquet", rows)
    sequence = read_dataset(tmp_path).sequences("train")[0]
    assert sequence.inter_times.tolist() == inter_times.tolist()


def test_inter_times_that_contradict_the_times_are_not_used(tmp_path: Path) -> None:
    rows = [{"time_since_start": [1.0, 2.0], "time_since_last_event": [1.0, 7.0], "type_event": [0, 0]}]
    for split in SPLITS:
        write(tmp_path / f"{split}.parquet", rows)
    assert read_dataset(tmp_path).sequences("train")[0].inter_times.tolist() == [0.0, 1.0]  # the first event is given
    assert read_dataset(tmp_path, t_start=0).sequences("train")[0].inter_times.tolist() == [1.0, 1.0]


def test_narrow_and_unusual_arrow_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "time_since_start": pa.array([[0, 1], [0, 2]], pa.large_list(pa.float32())),
            "type_event": pa.array([[0, 1], [1, 1]], pa.list_(pa.int8(), 2)),
        }
    )
    for split in SPLITS:
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    sequences = read_dataset(tmp_path).sequences("train")
    assert sequences[1].event_times.tolist() == [0.0, 2.0] and sequences[1].event_times.dtype == torch.float64
    assert sequences[0].marks.tolist() == [0, 1]


def test_round_trip_through_parquet(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = []
    for _ in range(20):
        gaps = torch.rand(int(torch.randint(0, 9, (1,), generator=generator)), generator=generator, dtype=torch.float64)
        times = 100 + gaps.cumsum(0)
        marks = torch.randint(0, 4, (len(gaps),), generator=generator)
        lists = {
            "time_since_start": times.tolist(),
            "time_since_last_event": gaps.tolist(),
            "type_event": marks.tolist(),
        }
        rows.append(lists | {"t_start": 100.0, "t_end": 200.0})
    dataset = read_dataset(write(tmp_path / "samples.parquet", full(rows, num_marks=4)), fractions=(0.5, 0.25, 0.25))
    sequences = [sequence for part in dataset.splits.values() for sequence in part]
    for sequence, row in zip(sequences, rows, strict=True):
        assert sequence.event_times.tolist() == row["time_since_start"]
        assert sequence.inter_times.tolist() == row["time_since_last_event"]
        assert sequence.marks.tolist() == row["type_event"]
        assert (sequence.t_start, sequence.t_end) == (100.0, 200.0)


def test_sequences_own_their_memory(tmp_path: Path) -> None:
    """A view would carry its whole table to every worker process."""
    for split, rows in SPLITS.items():
        write(tmp_path / f"{split}.parquet", full(rows))
    sequence = read_dataset(tmp_path).sequences("train")[1]
    assert sequence.event_times.untyped_storage().nbytes() == len(sequence) * 8


def test_rows_of_interleaved_sequences_keep_their_order(tmp_path: Path) -> None:
    """600 events of ten sequences in turn, some at one time: an unstable sort by sequence would exchange them."""
    generator = np.random.default_rng(0)
    turns = [*range(10), *generator.integers(10, size=590).tolist()]
    times = np.repeat(np.arange(200.0), 3).tolist()
    rows = [
        {"sequence": f"user-{i}", "time": time, "mark": n % 3}
        for n, (i, time) in enumerate(zip(turns, times, strict=True))
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.csv", rows)
    for i, sequence in enumerate(read_dataset(tmp_path).sequences("train")):
        own = [row for row in rows if row["sequence"] == f"user-{i}"]
        first = own[0]["time"]
        assert sequence.marks.tolist() == [row["mark"] for row in own]
        assert [time - sequence.event_times[0].item() for time in sequence.event_times.tolist()] == [
            row["time"] - first for row in own
        ]


def test_names_of_marks_that_a_file_holds_are_kept(tmp_path: Path) -> None:
    """As in files of samples: the marks are numbers, and a column says what they are called, those that do not occur
    too."""
    names = ["z", "never", "a"]
    rows = [
        {"time_since_start": [0.0, 1.0], "type_event": [2, 0], "mark_names": names, "time_unit": "h"} for _ in range(3)
    ]
    for split in SPLITS:
        write(tmp_path / f"{split}.parquet", rows)
    dataset = read_dataset(tmp_path)
    assert dataset.mark_names == ("z", "never", "a") and dataset.num_marks == 3 and dataset.time_unit == "h"
    assert dataset.sequences("train")[0].marks.tolist() == [2, 0]
    grouped = read_dataset(tmp_path, min_mark_count=2)
    assert grouped.mark_names == ("a", "z", "other") and grouped.sequences("train")[0].marks.tolist() == [0, 1]
    unnamed = [row | {"mark_names": None} for row in rows]
    for split in SPLITS:
        write(tmp_path / "unnamed" / f"{split}.parquet", unnamed)
    assert read_dataset(tmp_path / "unnamed").mark_names is None
