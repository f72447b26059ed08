"""Where data come from: every file format and object in memory reads to the same sequences; obstacles come all at
once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from jsonargparse import ArgumentParser

from tppsd import EventDataModule
from tppsd.data.options import ReadOptions
from tppsd.data.reading import EventDataset, read_dataset
from tppsd.data.remarks import remarks
from tppsd.data.sequences import EventSequence

THIRDS = (1 / 3, 1 / 3, 1 / 3)
FRAME = pd.DataFrame(
    {
        "sequence": ["a", "b", "a", "c", "c"],
        "time": pd.to_datetime(
            ["2024-05-01 01:00", "2024-05-01 02:00", "2024-05-01 03:30", "2024-05-02 00:00", "2024-05-03 00:00"]
        ),
        "mark": ["x", "y", "y", "x", "x"],
    }
)
CSV = (
    "sequence,time,mark\na,2024-05-01 01:00,x\nb,2024-05-01 02:00,y\na,2024-05-01 03:30,y\n"
    "c,2024-05-02,x\nc,2024-05-03,x\n"
)


def check(dataset: EventDataset) -> None:
    """The data set is FRAME."""
    found = [
        (s.id, s.event_times.tolist(), [(dataset.mark_names or ())[mark] for mark in s.marks])
        for part in dataset.splits.values()
        for s in part
    ]
    assert found == [("a", [1.0, 3.5], ["x", "y"]), ("b", [2.0], ["y"]), ("c", [24.0, 48.0], ["x", "x"])]
    assert (dataset.time_unit, dataset.time_origin) == ("h", "2024-05-01T00:00:00")


def rows() -> list[dict[str, Any]]:
    return FRAME.astype({"time": str}).to_dict("records")


def write(path: Path) -> Path:
    """FRAME in the format that the name says."""
    suffix = path.suffixes[0]
    texts = {
        ".csv": CSV,
        ".tsv": CSV.replace(",", "\t"),
        ".json": json.dumps(rows()),
        ".jsonl": "\n".join(map(json.dumps, rows())),
    }
    if suffix == ".parquet":
        FRAME.to_parquet(path)
        return path
    if suffix in (".feather", ".arrow"):
        pyarrow.feather.write_feather(pa.Table.from_pandas(FRAME), str(path))
        return path
    content = texts[suffix].encode()
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": pa.Codec("zstd").compress}
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
        return path
    path.write_bytes(packers[path.suffix](content) if len(path.suffixes) == 2 else content)
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl"])
def test_text_files(tmp_path: Path, suffix: str, packed: str) -> None:
    check(read_dataset(write(tmp_path / f"log{suffix}{packed}"), fractions=THIRDS))


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_columnar_files(tmp_path: Path, suffix: str) -> None:
    check(read_dataset(write(tmp_path / f"log{suffix}"), fractions=THIRDS))


def test_packed_split_files_in_a_folder(tmp_path: Path) -> None:
    for split in ("train", "validation", "test-00000-of-00001"):
        write(tmp_path / f"{split}.csv.gz")
    dataset = read_dataset(tmp_path)
    assert list(dataset.splits) == ["train", "validation", "test"] and len(dataset.sequences("test")) == 3


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet", ".feather", ".jsonl"])
def test_urls_of_any_protocol(tmp_path: Path, suffix: str) -> None:
    import fsspec

    file = write(tmp_path / f"log{suffix}")
    check(read_dataset(f"file://{file}", fractions=THIRDS))
    with fsspec.open(f"memory://logs/log{suffix}", "wb") as stream:
        stream.write(file.read_bytes())
    check(read_dataset(f"memory://logs/log{suffix}", fractions=THIRDS))
    with pytest.raises(FileNotFoundError, match=r"memory://logs/none.csv: cannot be opened"):
        read_dataset("memory://logs/none.csv")


class TestMemory:
    def test_tables(self) -> None:
        import datasets

        arrow = pa.Table.from_pandas(FRAME)
        for source in (
            FRAME,
            arrow,
            datasets.Dataset(arrow),
            FRAME.set_index("time"),
            FRAME.sample(frac=1, random_state=0).sort_index(),
        ):
            check(read_dataset(source, fractions=THIRDS))
            check(EventDataModule(source, fractions=THIRDS).dataset)

    def test_anything_that_speaks_arrow(self) -> None:
        """The protocol of polars and others: the C stream of Arrow."""

        class Table:
            def __arrow_c_stream__(self, requested_schema: object = None) -> object:
                return pa.Table.from_pandas(FRAME).__arrow_c_stream__(requested_schema)

        check(read_dataset(Table(), fractions=THIRDS))

    @pytest.mark.parametrize("kind", ["text", "category"])
    def test_views_of_texts(self, tmp_path: Path, kind: str) -> None:
        """What polars gives, in memory and in its Feather files. Mutant: `without_views` returns the table as it is."""
        view = getattr(pa, "string_view", None)
        if view is None:
            pytest.skip("this pyarrow has no views of texts")
        table = pa.Table.from_pandas(FRAME, preserve_index=False)
        for place, name in enumerate(table.column_names):
            if not pa.types.is_floating(table[name].type):
                column = pa.chunked_array([pa.array(list(map(str, table[name].to_pylist())), view())])
                if kind == "category":
                    indices = pa.array(range(len(column)), pa.uint32())
                    column = pa.chunked_array([pa.DictionaryArray.from_arrays(indices, column.chunk(0))])
                table = table.set_column(place, name, column)
        check(read_dataset(table, fractions=THIRDS))
        pyarrow.feather.write_feather(table, str(tmp_path / "log.feather"), compression="uncompressed")
        check(read_dataset(str(tmp_path / "log.feather"), fractions=THIRDS))

    def test_polars(self) -> None:
        polars = pytest.importorskip("polars", reason="polars is not installed")
        check(read_dataset(polars.from_pandas(FRAME), fractions=THIRDS))

    def test_splits(self) -> None:
        import datasets

        arrow = pa.Table.from_pandas(FRAME)
        parts = {"train": arrow, "valid": arrow.slice(3), "test": arrow.slice(1, 1)}
        for source in (parts, {k: v.to_pandas() for k, v in parts.items()},
                       datasets.DatasetDict({k: datasets.Dataset(v) for k, v in parts.items()})):  # fmt: skip
            dataset = read_dataset(source, time_unit="h")
            assert [len(part) for part in dataset.splits.values()] == [3, 1, 1]
            assert dataset.sequences("test")[0].event_times.tolist() == [2.0]

    def test_lists_of_sequences(self) -> None:
        own = [
            EventSequence.of([1.0, 2.0, 5.0], [0, 2, 1], t_start=0, t_end=6, score_start=1.5, index=7),
            EventSequence.of([1e9, 1e9 + 1], [1, 0]),
            EventSequence.of([], [], t_start=3, t_end=4),
        ]
        dataset = read_dataset(own, fractions=THIRDS)
        assert dataset.num_marks == 3
        for part, sequence in zip(dataset.splits.values(), own, strict=True):
            (found,) = part
            assert torch.equal(found.event_times, sequence.event_times) and torch.equal(found.marks, sequence.marks)
            assert torch.equal(found.inter_times, sequence.inter_times)
            assert (found.t_start, found.t_end, found.score_start) == (
                sequence.t_start,
                sequence.t_end,
                sequence.score_start,
            )
        assert EventDataModule({"train": own, "test": own[:1]}).num_marks == 3
        assert read_dataset(own, fractions=THIRDS, t_end=2e9).sequences("train")[0].t_end == 2e9

    def test_what_is_no_table(self) -> None:
        with pytest.raises(
            TypeError, match="cannot read a int; give a path, a hub id, a table of pandas, polars, Arrow"
        ):
            read_dataset(5)


class TestObstacles:
    def test_all_are_named_at_once_and_their_options_together_mend_them(self, tmp_path: Path) -> None:
        """A mutant that stops at the first needs six runs."""
        lines = ["case;when;activity", "a;02/13/2024;x", "a;02/11/2024;", "b;02/12/2024;x", "c;02/12/2024;x"]
        (tmp_path / "log.csv").write_text("\n".join(lines))
        with pytest.raises(ValueError) as error:
            read_dataset(tmp_path / "log.csv")
        said = str(error.value).replace(f"{tmp_path}/", "")
        assert said.splitlines()[0] == "log.csv: 7 things are to mend:"
        for part in (
            "the header 'case;when;activity' is separated by ';'; say delimiter: ';'",
            "columns={'sequence': 'case'}",
            "columns={'time': 'when'}",
            "columns={'mark': 'activity'}",
            "when = '02/13/2024' is not ISO 8601; day and month are not guessed: time_format: '%m/%d/%Y' reads every "
            "row",
            "row 1: activity is missing",
            "row 1 (sequence 'a'): when = 2024-02-11T00:00:00 comes before the event at 2024-02-13T00:00:00",
        ):
            assert part in said
        options = yaml_options(said)
        check = read_dataset(tmp_path / "log.csv", **options, fractions=THIRDS)
        assert check.sequences("train")[0].event_times.tolist() == [0.0, 2.0]

    def test_the_options_of_a_run_without_obstacles_are_not_asked_for(self) -> None:
        assert read_dataset(FRAME, fractions=THIRDS).notes == (
            "DataFrame, time: has timestamps without a zone; they are read as UTC",
        )

    def test_the_same_obstacle_in_two_splits_is_one(self) -> None:
        unsorted = pa.table({"sequence": [1, 1], "time": [2.0, 1.0], "mark": [0, 0]})
        with pytest.raises(ValueError) as error:
            read_dataset({"train": unsorted, "test": unsorted})
        assert "\n" not in str(error.value) and "train split, row 1" in str(error.value)

    def test_a_lookback_without_a_window_and_other_contradictions(self) -> None:
        for options, said in (
            ({"lookback": 5}, "lookback = 5 reaches back from a window; give window as well"),
            ({"observed": [[0, 1]], "t_end": 1}, "leave out t_start and t_end"),
            ({"observed": [[0, 1]], "window": 1}, "observed and window both cut"),
            ({"min_mark_count": 0}, "min_mark_count = 0 must be at least 1"),
            ({"delimiter": "ab"}, "delimiter = 'ab' must be one ASCII character"),
        ):
            with pytest.raises(ValueError, match=said):
                read_dataset(FRAME, **options)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="windw"):
            read_dataset(FRAME, windw=5)

    def test_one_stream_that_is_declared_needs_a_window(self) -> None:
        with pytest.raises(ValueError, match="one stream of events is cut into windows: give window="):
            read_dataset(FRAME, columns={"sequence": None}, sort=True)


def yaml_options(said: str) -> dict[str, Any]:
    """The options at the end of a message, as a configuration file would have them."""
    import yaml

    return yaml.safe_load("{" + said.splitlines()[-1].split(": ", 1)[1] + "}")


class TestDataModule:
    def test_it_takes_every_option_of_reading(self) -> None:
        from inspect import signature

        own = signature(EventDataModule.__init__).parameters
        for name, parameter in signature(ReadOptions).parameters.items():
            assert name in own and own[name].default == parameter.default

    def test_a_process_takes_none_of_them(self) -> None:
        for options in ({"window": 5.0}, {"sort": True}, {"split_times": [1.0, 2.0]}, {"missing_mark": "x"}):
            with pytest.raises(ValueError, match="is for data at a path, not for the process hawkes"):
                EventDataModule(process="hawkes", **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="t_end = '2024-05-01' must be a number for the process hawkes"):
            EventDataModule(process="hawkes", t_end="2024-05-01")

    def test_options_of_the_command_line(self) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(EventDataModule, "data")
        options = ["--data.path=log.csv", "--data.window=7d", "--data.lookback=2", "--data.t_end=2024-05-01",
                   "--data.split_times=[2024-05-01, 2024-06-01]", "--data.columns={mark: null, time: when}",
                   "--data.time_format=['%d/%m/%Y', ISO8601]", "--data.observed=[[0, 12], [20, 30]]"]  # fmt: skip
        data = parser.parse_args(options).data
        assert (data.path, data.window, data.lookback, data.t_end) == ("log.csv", "7d", 2.0, "2024-05-01")
        assert data.split_times == ["2024-05-01", "2024-06-01"] and data.columns == {"mark": None, "time": "when"}
        assert data.time_format == ["%d/%m/%Y", "ISO8601"] and data.observed == [[0.0, 12.0], [20.0, 30.0]]

    def test_what_to_mind_is_said_before_training(self, caplog: pytest.LogCaptureFixture) -> None:
        import logging

        times = [[0.0, 1.0, 2.0], [0.0, 1.0, 200.0], [0.0], [0.0, 1.0, 90.0]]
        rows = [(name, t) for i, name in enumerate("abcd") for t in times[i]]
        table = pa.table({"sequence": [name for name, _ in rows], "time": [t for _, t in rows]})
        data = EventDataModule(table, fractions=(0.5, 0.25, 0.25))
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            data.setup("fit")
            data.setup("fit")
        said = [record.getMessage() for record in caplog.records]
        assert (
            sum(
                "1 of 4 sequences have no event that is scored (train 0, validation 1, test 0)" in line for line in said
            )
            == 1
        )
        assert sum("the sequences end at very different times" in line for line in said) == 1


def test_times_too_large_to_tell_events_apart_are_said() -> None:
    """At 1e16 float64 numbers are 2 apart; at 1e9, a ten-millionth. Differences of timestamps are exact."""
    rows = [{"sequence": i, "time": t + 0.0, "mark": 0} for i in range(30) for t in range(0, 12, 4)]
    for shift, is_said in ((0.0, False), (1e9, False), (1e16, True)):
        table = pa.Table.from_pylist([row | {"time": row["time"] + shift} for row in rows])
        said = [one for one in remarks(read_dataset(table)) if "subtract an origin" in one]
        assert len(said) == is_said
    assert "float64 numbers are 2 apart, which is 50.0% of the median inter-time" in said[0]
