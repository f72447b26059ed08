"""Whatever is in a file, a checkpoint, an option or a request: a result or one sentence, never a traceback or a wait.

The cases are those of `python -m tests.fuzz` (tests/fuzz/), which tries as many as one likes. Mutant: a reader that
lets the errors of its libraries through.
"""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

import tppsd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzz import checkpoints, data, options, sampler
from tppsd.data import reading
from tppsd.data.sequences import EventSequence
from tppsd.data.statistics import DataStatistics


def numbers_of_done(family: ModuleType, seeds: range, folder: Path, *arguments: str) -> int:
    """Try cases and count those that were done; the others ended in a sentence."""
    done = 0
    for seed in seeds:
        try:
            done += family.try_case(seed, folder, *arguments) is None
        except AssertionError as error:
            raise AssertionError(f"{family.__name__}, case {seed}: {error}") from error
    return done


@pytest.mark.parametrize("suffix", data.FORMATS)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    """500 cases in all; every sentence names the file, and none quotes it at length."""
    assert 5 < numbers_of_done(data, range(125), tmp_path, suffix) < 100


@pytest.mark.parametrize("kind", ["bytes", "values"])
def test_damaged_checkpoints(tmp_path: Path, kind: str) -> None:
    """500 cases: bytes damaged, or values replaced and no digest that would tell."""
    assert 10 < numbers_of_done(checkpoints, range(250), tmp_path, kind) < 220


@pytest.mark.parametrize("part", range(10))
def test_odd_options(tmp_path: Path, part: int) -> None:
    """500 cases: everything that `tppsd fit` builds before it trains."""
    assert numbers_of_done(options, range(50 * part, 50 * part + 50), tmp_path) < 45


def test_odd_requests(tmp_path: Path) -> None:
    """500 cases of `tppsd.sample`."""
    assert 50 < numbers_of_done(sampler, range(500), tmp_path) < 400


# --- limits, checked before memory is taken --------------------------------------------------------------------------


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    """A GiB of zeros in a MiB; nothing of it is unpacked."""
    tracemalloc.start()
    sentence = checkpoints.try_case(0, tmp_path, "bomb")
    assert "its entries claim 1,0" in str(sentence)
    (tmp_path / "model.ckpt").stat()
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match="its entries claim"):
        tppsd.load(tmp_path / "model.ckpt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", 100_000), ("num_layers", 999), ("num_marks", 2**19), ("feedforward_dim", 2**20)],
)
def test_a_checkpoint_of_other_sizes_than_its_weights_is_refused(tmp_path: Path, name: str, value: int) -> None:
    """No parameter of these sizes is made: `meta` tensors tell the shapes."""
    path = tmp_path / "model.ckpt"
    content: dict[str, Any] = torch.load(Path(_saved(tmp_path)), weights_only=True)
    content.pop("content_sha256")
    content["tppsd"]["config"][name] = value
    torch.save(content, path)
    with pytest.raises(ValueError, match="its weights do not fit its configuration"):
        tppsd.load(path)


def _saved(folder: Path) -> Path:
    path = folder / "whole.ckpt"
    tppsd.TransformerTPP(3, embed_dim=16, num_heads=2).save(path)
    return path


def test_too_many_marks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_marks = 1000000000 must be at most 1,048,576"):
        tppsd.TransformerTPP(10**9)
    path = tmp_path / "log.json"
    path.write_text(json.dumps([{"time_since_start": [1.0, 2.0], "type_event": [0, 1], "dim_process": 10**9}] * 30))
    assert "dim_process = 1,000,000,000; there must be at most 1,048,576 marks" in str(data.read(path))


def test_statistics_beyond_float64_are_refused() -> None:
    rows = [EventSequence.of([1e308, 1.7e308], [0, 0], t_start=0.0) for _ in range(30)]
    with pytest.raises(ValueError, match="add up to more than float64 can hold"):
        DataStatistics.of(rows, 1)


# --- single kinds of garbage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["list", "row"])
def test_true_among_numbers_is_no_number(tmp_path: Path, place: str) -> None:
    """Arrow reads [0.5, true, 2.0] as 0.5, 1.0, 2.0."""
    path = tmp_path / "log.json"
    if place == "list":
        path.write_text(json.dumps([{"time_since_start": [0.5, True, 2.0], "type_event": [0, 1, 0]}] * 30))
        assert "row 0: time_since_start[1] = true stands among numbers" in str(data.read(path))
    else:
        rows = [{"sequence": i, "time": t, "mark": 0} for i in range(30) for t in (0.5, True, 2.0)]
        path.write_text(json.dumps(rows))
        assert "row 1: time = true stands among numbers" in str(data.read(path))


def test_ids_are_compared_or_refused(tmp_path: Path) -> None:
    """UUIDs are ids; structures and maps are not."""
    path, n = tmp_path / "log.parquet", 60
    columns = {"time": [0.5 * (i % 3 + 1) for i in range(n)], "mark": [i % 2 for i in range(n)]}
    nested = pyarrow.array([{"a": i // 3} for i in range(n)])
    pyarrow.parquet.write_table(pyarrow.table({"sequence": nested, **columns}), path)
    assert "row 0: sequence = {'a': 0} has type struct" in str(data.read(path))
    if not hasattr(pyarrow, "uuid"):
        pytest.skip("this version of pyarrow has no UUIDs")
    ids = [uuid.UUID(int=i // 3) for i in range(n)]
    storage = pyarrow.array([one.bytes for one in ids], pyarrow.binary(16))
    own = pyarrow.ExtensionArray.from_storage(pyarrow.uuid(), storage)
    pyarrow.parquet.write_table(pyarrow.table({"sequence": own, **columns}), path)
    assert reading.read_dataset(path).sequences("train")[1].id == str(ids[3])


def test_a_header_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("séquence,time,mark\n0,0.5,1\n".encode("latin-1"))
    assert data.read(path) == f"{path}: the names of its columns are not UTF-8; save the file as UTF-8"


def test_a_long_value_is_shown_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    """By the parser, and by what a constructor says."""
    from tppsd import cli

    for option in ("--trainer.max_epochs", "--data.lookback"):
        try:
            status = cli.main(["fit", "--data.path", "none.csv", f"{option}={'x' * 10_000}"])
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr().err
        assert status == 2 and "(10,000 characters)" in said and len(said) < 1_000


@pytest.mark.parametrize("suffix", data.FORMATS)
def test_a_pipe_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    """Nobody writes to it, so that reading would wait for ever."""
    path = tmp_path / f"train{suffix}"
    os.mkfifo(path)
    assert f"{path}: no such file" in str(data.read(path))
    assert f"{path}: is a pipe or a device" in str(data.read(tmp_path))


def test_errors_of_libraries_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: a reader that raises what its library raises."""

    def fail(*_: Any, **__: Any) -> None:
        pyarrow.array([{}]).dictionary_encode()

    monkeypatch.setattr(reading, "read_dataset", fail)
    with pytest.raises(AssertionError, match="is a traceback"):
        test_damaged_files(tmp_path, ".csv")
