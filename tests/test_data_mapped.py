"""Arrow files that stay on the disk: the same data as in memory, in less of it, and a sentence where a file is not
what it was."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from same_data import same
from small_models import random_sequence, small_model

from tppsd import EventDataModule, cli
from tppsd.data import files
from tppsd.data.arrow_file import write_arrow
from tppsd.data.blocks import Unstreamable
from tppsd.data.flat_sequences import FlatSequences
from tppsd.data.gaps import GapCounts
from tppsd.data.interchange import write_parquet
from tppsd.data.log import read_log
from tppsd.data.mapped import MappedSequences
from tppsd.data.options import ReadOptions
from tppsd.data.reading import read_dataset
from tppsd.data.scan import Scan
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics
from tppsd.data.streaming import stream_to_arrow
from tppsd.data.units import NANOSECONDS
from tppsd.metrics.functional import model_nll


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few rows be a block, so that small logs have many."""
    monkeypatch.setattr(files, "BLOCK_ROWS", 7)
    monkeypatch.setattr(files, "BLOCK_BYTES", 300)
    monkeypatch.setattr(FlatSequences.blocks, "__defaults__", (20,))


def rows_of(num_cases: int = 40, is_dated: bool = True, seed: int = 0) -> pd.DataFrame:
    """Return a log with one row per event; one type occurs late, and one case is much longer than a block."""
    rng = np.random.default_rng(seed)
    rows = []
    for case in range(num_cases):
        num_events = 50 if case == 3 else int(rng.integers(1, 12))
        seconds = np.cumsum(np.rint(rng.exponential(3600 if case % 2 else 20, num_events)))
        types = ["x", "y"] if case < 15 else ["x", "y", "a late type"]
        for second in seconds:
            mark: Any = str(rng.choice(types)) if is_dated else int(rng.integers(0, 2 + (case >= 15)))
            time = pd.Timestamp("2021-03-04") + pd.Timedelta(second + 86400 * case, "s") if is_dated else second * 0.7
            rows.append((f"case {case}" if is_dated else case, time, mark))
    return pd.DataFrame(rows, columns=["sequence", "time", "mark"])


def written(frame: pd.DataFrame, folder: Path, kind: str) -> Path:
    """Write a log as a file or folder that can be read block by block."""
    path = folder / f"log.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "canonical":
        path = folder / "canonical.parquet"
        write_parquet(read_log(frame, ReadOptions()), path)
    else:
        path.mkdir()
        names = ["train-00000-of-00002", "train-00001-of-00002", "valid", "test"]
        edges = [0, *np.flatnonzero(np.diff(frame["sequence"].factorize()[0]))[[9, 25, 30]] + 1, len(frame)]
        for name, (start, stop) in zip(names, pairwise(edges), strict=True):
            frame[start:stop].to_parquet(path / f"{name}.parquet")
    return path


KINDS = ("csv", "parquet", "canonical", "folder")


@pytest.mark.usefixtures("small_blocks")
class TestTheSameAsInMemory:
    @pytest.mark.parametrize("is_dated", [True, False])
    @pytest.mark.parametrize("kind", KINDS)
    def test_written_block_by_block(self, kind: str, is_dated: bool, tmp_path: Path) -> None:
        """Sequences, marks, ids, unit and origin, statistics and batches are the same, to the last bit."""
        source, path = written(rows_of(is_dated=is_dated), tmp_path, kind), tmp_path / "log.arrow"
        stream_to_arrow(str(source), path, ReadOptions())
        there, here = EventDataModule(str(path)), EventDataModule(str(source))
        assert isinstance(there.sequences("train"), MappedSequences) and same(there.dataset, here.dataset)
        assert there.statistics == here.statistics and there.num_events == here.num_events
        for one, other in zip(there.train_dataloader(), here.train_dataloader(), strict=True):
            assert all(map(torch.equal, one, other))

    @pytest.mark.parametrize(
        "options",
        [
            {"t_end": "last"},
            {"t_start": "2021-01-01", "time_unit": "d", "origin": "2020-01-01"},
            {"fractions": (0.6, 0.2, 0.2)},
            {"drop_duplicates": True},
            {"columns": {"mark": None}},
            {"mark_names": ["y", "a late type", "x"]},
        ],
    )
    def test_with_options(self, options: dict[str, Any], tmp_path: Path) -> None:
        frame = rows_of()
        frame = frame.iloc[np.repeat(np.arange(len(frame)), 1 + 2 * (frame.index == 4))]
        source = written(frame, tmp_path, "csv")
        _, notes = stream_to_arrow(str(source), tmp_path / "log.arrow", ReadOptions(**options))
        assert same(read_dataset(tmp_path / "log.arrow"), read_dataset(source, **options))
        assert any(f"{frame.duplicated().sum()} rows are exact copies" in note for note in notes)

    def test_a_column_split_says_the_same_to_both(self, tmp_path: Path) -> None:
        """Mutants split rows that are events, or take a file for split of which only some rows name a split."""
        num, names = 40, ["train"] * 20 + ["validation"] * 10 + ["test"] * 10
        events = rows_of(num, is_dated=False).rename(columns={"time": "time_since_start"})
        events["split"] = [names[case] for case in events["sequence"]]
        lists = pd.DataFrame(
            {"time_since_start": [[1.0 + i, 2.0 + i] for i in range(num)], "type_event": [[0, 1]] * num}
        )
        frames = {
            "events": events,
            "lists": lists.assign(split=names),
            "no train": lists.assign(split=[name.replace("train", "test") for name in names]),
            "partly": lists.assign(split=[*names[:-7], *["other"] * 7]),
        }
        kept = {}
        for name, frame in frames.items():
            frame.to_parquet(tmp_path / f"{name}.parquet")
            arguments = ["convert", str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}.arrow")]
            assert cli.main(arguments) == 0
            found = read_dataset(tmp_path / f"{name}.arrow")
            assert same(found, read_dataset(tmp_path / f"{name}.parquet"))
            kept[name] = {split: len(part) for split, part in found.splits.items()}
        by_fractions = {"train": 32, "validation": 4, "test": 4}
        assert kept.pop("lists") == {"train": 20, "validation": 10, "test": 10}
        assert list(kept.values()) == [by_fractions] * 3

    def test_written_whole(self, tmp_path: Path) -> None:
        """Windows with given events need all rows; their scores are those of the log in memory."""
        options: dict[str, Any] = {"window": "3h", "lookback": "5h", "fractions": (0.6, 0.2, 0.2)}
        log = read_log(rows_of(), ReadOptions(**options))
        write_arrow(log, tmp_path / "log.arrow")
        there, here = read_dataset(tmp_path / "log.arrow"), read_dataset(rows_of(), **options)
        assert same(there, here) and (there.window, there.lookback) == (here.window, here.lookback) == (3 * 60, 5 * 60)
        model = small_model(num_marks=there.num_marks)
        for split in ("train", "test"):
            assert model_nll(model, there.sequences(split)) == model_nll(model, here.sequences(split))

    def test_read_into_memory_where_options_change_its_sequences(self, tmp_path: Path) -> None:
        source = written(rows_of(), tmp_path, "csv")
        stream_to_arrow(str(source), tmp_path / "log.arrow", ReadOptions())
        data = read_dataset(tmp_path / "log.arrow", time_unit="d")
        assert same(data, read_dataset(source, time_unit="d"))
        assert "is read into memory, since time_unit may change its sequences" in data.notes[-1]
        own = read_dataset(tmp_path / "log.arrow")
        said = {"time_unit": own.time_unit, "origin": own.time_origin, "mark_names": list(own.mark_names or ())}
        assert isinstance(read_dataset(tmp_path / "log.arrow", **said).sequences("test"), MappedSequences)

    @pytest.mark.parametrize("name", ["log.arrow", "log.parquet"])
    @pytest.mark.parametrize(
        ("ids", "expected"),
        [
            (([1, 2], [3]), ([1, 2], [3])),
            (([1, None], [3]), ([1, None], [3])),
            (([1, None], ["a"]), (["1", None], ["a"])),
            (([1, 2], [None]), ([1, 2], [None])),
            (([2**70, None], [3]), ([str(2**70), None], ["3"])),
            (([None, None], [None]), ([None, None], [None])),
        ],
    )
    def test_ids_have_one_type_in_all_splits(self, ids: Any, expected: Any, name: str, tmp_path: Path) -> None:
        """Ids of several types become text, and no id stays none; mutants look at each split alone, or write "None"."""
        sequence = EventSequence.of([1.0], [0], 0.0, 2.0)
        splits = {
            split: [replace(sequence, id=one) for one in own] for split, own in zip(("train", "test"), ids, strict=True)
        }
        write = write_arrow if name.endswith(".arrow") else write_parquet
        write(read_log(splits, ReadOptions()), tmp_path / name)
        back = read_dataset(tmp_path / name)
        assert tuple([one.id for one in back.sequences(split)] for split in splits) == expected


class TestWhatHoldsForTheWholeLog:
    @pytest.mark.parametrize("seed", range(20))
    def test_the_unit_is_that_of_the_median_gap(self, seed: int) -> None:
        """It is so too where the median lies between two gaps, one of them below a unit and one not."""
        rng = np.random.default_rng(seed)
        unit = rng.choice(list(NANOSECONDS.values())[1:6])
        gaps = rng.integers(0, 2 * unit, int(rng.integers(1, 9)))
        counts = GapCounts()
        for part in np.array_split(gaps, 3):
            counts.add(part)
        median = np.median(gaps[gaps > 0]) if (gaps > 0).any() else 0
        assert counts.typical() == max((length for length in NANOSECONDS.values() if length <= median), default=0)

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("wrong", ["the first block", "every block's own"])
    def test_what_only_some_blocks_say_is_found(
        self, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = written(rows_of(), tmp_path, "csv")
        add = Scan.add

        def forgetful(self: Scan, block: Any) -> None:
            if wrong == "every block's own":
                self.gaps, self.ticks = GapCounts(), []
            if wrong == "every block's own" or self.first is None:
                add(self, block)
            else:
                self.num_sequences[block.split] += len(block.table)

        monkeypatch.setattr(Scan, "add", forgetful)
        with pytest.raises((AssertionError, ValueError)):
            stream_to_arrow(str(source), tmp_path / "log.arrow", ReadOptions())
            assert same(read_dataset(tmp_path / "log.arrow"), read_dataset(source))

    def test_statistics_of_blocks_are_those_of_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sequences = [random_sequence(n % 9, seed=n, given=n % 2 == 0 and n % 9 > 0) for n in range(60)]
        whole = DataStatistics.of(sequences, 3)
        monkeypatch.setattr(FlatSequences.blocks, "__defaults__", (7,))
        of_blocks = DataStatistics.of(sequences, 3)
        for name, value in vars(whole).items():
            other = getattr(of_blocks, name)
            assert other == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name
        logs = torch.cat([s.inter_times[s.num_given :] for s in sequences]).log()
        assert of_blocks.log_mean == pytest.approx(float(logs.mean()), rel=1e-12)
        assert of_blocks.log_std == pytest.approx(float(logs.std(correction=0)), rel=1e-12)

    def test_blocks_tile_a_split(self) -> None:
        flat = FlatSequences.of([random_sequence(n, seed=n) for n in (0, 3, 50, 0, 0, 7, 1, 0)])
        for size in (1, 4, 10, 1000):
            blocks = list(flat.blocks(size))
            assert sum(map(len, blocks)) == len(flat)
            assert torch.equal(torch.cat([block.event_times for block in blocks]), flat.event_times)
            assert all(len(block) == 1 or max(len(block), len(block.event_times)) <= size for block in blocks)


class TestWhatCannotBeStreamed:
    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"window": "7d"}, "window needs all of it"),
            ({"min_mark_count": 2}, "min_mark_count needs all of it"),
            ({"sort": True}, "the rows of a sequence do not stand together"),
        ],
    )
    def test_is_read_as_a_whole_and_said(
        self, options: dict[str, Any], why: str, tmp_path: Path, capsys: Any, small_blocks: None
    ) -> None:
        frame = rows_of()
        source = written(frame.sample(frac=1, random_state=0) if "sort" in options else frame, tmp_path, "csv")
        words = [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]
        assert cli.main(["convert", str(source), str(tmp_path / "log.arrow"), *words]) == 0
        assert f"all of it is read into memory, since {why}" in capsys.readouterr().out
        assert same(read_dataset(tmp_path / "log.arrow"), read_dataset(source, **options))

    def test_a_column_whose_kind_changes_on_the_way(self, tmp_path: Path, small_blocks: None) -> None:
        frame = rows_of()
        frame["sequence"] = frame["sequence"].str.removeprefix("case ").replace("39", "the last")
        source = written(frame, tmp_path, "csv")
        with pytest.raises(Unstreamable, match="other values further down"):
            stream_to_arrow(str(source), tmp_path / "log.arrow", ReadOptions())

    @pytest.mark.parametrize(
        ("row", "column", "value", "sentence"),
        [
            (200, "time", "1999-01-01", r"from row \d+, row \d+ \(sequence 'case \d+'\): time = 1999-01-01"),
            (250, "mark", None, r"from row \d+, row \d+: mark is missing"),
            (-1, "mark", "new", r"mark = 'new' does not occur in the training split"),
        ],
    )
    def test_a_mistake_ends_in_a_sentence_and_leaves_nothing_behind(
        self, row: int, column: str, value: Any, sentence: str, tmp_path: Path, small_blocks: None
    ) -> None:
        frame = rows_of()
        frame[column] = frame[column].astype(str)
        frame.loc[frame.index[row], column] = value
        source = written(frame, tmp_path, "csv")
        with pytest.raises(ValueError, match=sentence):
            stream_to_arrow(str(source), tmp_path / "out" / "log.arrow", ReadOptions())
        assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


class TestAFileThatIsNotWhatItWas:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        write_arrow(read_log(rows_of(12), ReadOptions()), tmp_path / "log.arrow")
        return tmp_path / "log.arrow"

    def test_cut_after_it_was_opened(self, path: Path) -> None:
        """Without the check the process would end by SIGBUS: the page that is asked for is no longer there."""
        sequences = read_dataset(path).sequences("train")
        os.truncate(path, path.stat().st_size // 8)
        for ask in (lambda: sequences[len(sequences) - 1], lambda: DataStatistics.of(sequences, 3)):
            with pytest.raises(ValueError, match="was changed or removed while it was read"):
                ask()

    def test_written_anew_or_removed(self, path: Path) -> None:
        sequences = read_dataset(path).sequences("train")
        write_arrow(read_log(rows_of(13), ReadOptions()), path)
        with pytest.raises(ValueError, match="was changed or removed"):
            sequences[0]
        sequences = read_dataset(path).sequences("train")
        path.unlink()
        with pytest.raises(ValueError, match="was changed or removed"):
            sequences[0]

    def test_a_damaged_file_is_refused_or_the_same(self, path: Path) -> None:
        """No flipped bit gives other data in silence; a reader without checksums passes most of them."""
        before, expected = path.read_bytes(), read_dataset(path)
        rng, refused = np.random.default_rng(0), 0
        for place in rng.integers(0, len(before), 300):
            content = bytearray(before)
            content[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            try:
                assert same(read_dataset(path), expected)
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
        assert refused > 150

    def test_a_cut_file_is_refused(self, path: Path) -> None:
        before = path.read_bytes()
        for size in np.random.default_rng(0).integers(0, len(before), 50):
            path.write_bytes(before[:size])
            with pytest.raises(ValueError, match=r"log\.arrow"):
                read_dataset(path)

    def test_it_is_opened_again_in_another_process(self, path: Path) -> None:
        sequences = read_dataset(path).sequences("test")
        content = pickle.dumps(sequences)
        again = pickle.loads(content)
        assert len(content) < 500 and isinstance(again, MappedSequences)
        assert [one.id for one in again] == [one.id for one in sequences]
        loader = EventDataModule(str(path), num_workers=1, batch_size=4).test_dataloader()
        assert sum(len(batch.index) for batch in loader) == len(sequences)


NUM_EVENTS, ROOM = 6_000_000, 110_000_000  # 48 MB for each of three columns; bytes beside the libraries

TRAIN = """
import os, resource, sys
import lightning, pandas, pyarrow.csv, pyarrow.feather, pyarrow.parquet, torch
from tppsd import EventDataModule, TargetTPP
from tppsd.data import mapped
from tppsd.data.flat_sequences import FlatSequences

folder, room = sys.argv[1], int(sys.argv[2])
FlatSequences.blocks.__defaults__ = (2**16,)
right = mapped._tensor

def train(name):
    data = EventDataModule(f"{folder}/{name}", batch_size=16)
    module = TargetTPP(num_marks=3, embed_dim=16, num_layers=1)
    trainer = lightning.Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
    now = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + room,) * 2)
    try:
        trainer.fit(module, datamodule=data)
        return f"{trainer.global_step} steps on {data.statistics.num_events} events"
    except (ValueError, RuntimeError) as error:
        return str(error)

for how, name in (("mapped", "log.arrow"), ("read", "log.parquet"), ("copied", "log.arrow")):
    if not os.fork():  # memory that one has freed is no room for the next
        if how == "copied":
            mapped._tensor = lambda *arguments: right(*arguments).clone()
        print(f"{how}: {train(name)}", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory that is not of a file is Linux's")
def test_a_model_is_trained_on_data_that_do_not_fit_into_memory(tmp_path: Path) -> None:
    """A mutant, a reader that copies the columns of the file, does not get so far."""
    import pyarrow as pa
    import pyarrow.parquet

    rng, num = np.random.default_rng(0), NUM_EVENTS // 60
    offsets = pa.array(np.arange(0, NUM_EVENTS + 1, 60))
    columns = {
        "time_since_start": pa.LargeListArray.from_arrays(offsets, np.cumsum(rng.random((num, 60)), 1).ravel()),
        "type_event": pa.LargeListArray.from_arrays(offsets, rng.integers(0, 3, NUM_EVENTS)),
        "t_start": np.zeros(num),
    }
    log = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(pa.table(columns), log, row_group_size=10_000)
    stream_to_arrow(str(log), tmp_path / "log.arrow", ReadOptions())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAIN, str(tmp_path), str(ROOM)],
        capture_output=True, text=True, check=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert said["mapped"] == "3 steps on 4800000 events"
    assert said["read"].startswith(f"{log}: there is not enough memory to read it as a whole; `tppsd convert {log}")
    assert "can't allocate memory" in said["copied"]
