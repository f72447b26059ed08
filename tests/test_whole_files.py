"""Files that are written to last: what is on the disk when, and that nothing half-written is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tppsd.data.whole_files import whole_or_absent, write_text
from tppsd.lightning.job_folder import JOB, MANIFEST, claim, write_manifest
from tppsd.lightning.shards import whole_file, write_shard
from tppsd.models.checkpoint import write_checkpoint
from tppsd.sampling.columns import write_durably

TABLE = pa.table({"x": [1, 2]})


def to_whole_file(path: Path) -> None:
    with whole_file(path) as file:
        file.write_text("all of it")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a checkpoint": ("model.ckpt", lambda path: write_checkpoint({"state_dict": {}}, path)),
    "a table of samples": ("samples.parquet", lambda path: write_durably(TABLE, path)),
    "a shard": ("train-00000-of-00001.parquet", lambda path: write_shard(TABLE, path, {"seed": 0})),
    "a result": ("forecast.csv", to_whole_file),
    "a manifest": (MANIFEST, lambda path: write_manifest(path.parent, {"seed": 0}, [])),
    "the record of a job": (JOB, lambda path: claim(path.parent, {"seed": 0})),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_must_last_is_on_the_disk_before_its_name_and_its_name_at_the_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants that leave out either, or give the name first, would lose the file or half of it with the power."""
    file_name, write = WRITERS[name]
    path, synced, really = tmp_path / file_name, [], os.fsync

    def fsync(descriptor: int) -> None:
        state = os.fstat(descriptor)
        is_folder = os.path.samestat(state, tmp_path.stat())
        synced.append(("folder" if is_folder else state.st_ino, path.exists()))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(path)
    assert synced == [(path.stat().st_ino, False), ("folder", True)]
    assert [one.name for one in tmp_path.iterdir()] == [file_name]


def test_other_files_are_whole_or_absent_and_wait_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", None)
    assert write_text(tmp_path / "new" / "page.html", "text").read_text() == "text"
    with pytest.raises(ZeroDivisionError), whole_or_absent(tmp_path / "new" / "page.html") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert [(one.name, one.read_text()) for one in (tmp_path / "new").iterdir()] == [("page.html", "text")]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a device or a pipe", "a folder"])
def test_what_is_no_file_stays_where_it_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Renamed over /dev/null by root, a file would take its place for every program of the machine."""
    path = tmp_path / "there"
    make(path)
    with pytest.raises(ValueError, match=r"there' is (a device or a pipe|a folder), not a file to write; name a file"):
        write_text(path, "all of it")
    assert path.exists() and not path.is_file() and list(tmp_path.iterdir()) == [path]
