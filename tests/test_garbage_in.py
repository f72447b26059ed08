"""Whatever is in a file, a checkpoint, an option or a request: a result or one sentence, never a traceback or a wait.

The cases are those of `python -m tests.fuzz` (tests/fuzz/), which tries as many as one likes. Mutant: a reader that
lets the errors of its libraries through.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
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

from tests.fuzz import checkpoints, commands, data, options, sampler
from tests.fuzz.judge import memory_limit, sentence_of
from tppsd import cli
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


@pytest.mark.parametrize("part", range(10))
def test_odd_commands(tmp_path: Path, part: int) -> None:
    """500 cases of predict, forecast, backtest, inspect and convert, to their end."""
    assert 1 <= numbers_of_done(commands, range(50 * part, 50 * part + 50), tmp_path) < 40


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs, models of them and a run."""
    folder = tmp_path_factory.mktemp("files")
    commands.prepare(folder)
    (folder / "run" / "config.yaml").write_bytes((folder / "run.yaml").read_bytes())
    return folder


def sentence(files: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command says that is refused, in time and in little memory; a word with {} stands for a file."""
    monkeypatch.chdir(folder)
    output, stated = io.StringIO(), [word.replace("{}", str(files)) for word in words]

    def act() -> None:
        with contextlib.redirect_stderr(output):
            assert cli.main(stated) == 2

    with memory_limit():
        sentence_of(act, None)
    (line,) = [line for line in output.getvalue().splitlines() if ": error: " in line]
    assert not os.listdir(folder), "something was left"
    return line


FORECAST = ["forecast", "{}/numbers.csv", "--model={}/numbers.ckpt", "--num_paths=10", "--output=out"]
DATES = ["forecast", "{}/dates.csv", "--model={}/dates.ckpt", "--num_paths=10", "--output=out"]
BACKTEST = ["backtest", "{}/numbers.csv", "--model={}/numbers.ckpt", "--num_paths=10", "--output=out", "--horizon=1"]
PREDICT = ["predict", "--model.target={}/numbers.ckpt", "--writer.output_dir=out", "--requests.num_events=10"]
TOO_MUCH = [
    ([*FORECAST, "--horizon=1e300"], "horizon = 1e+300 would have about 1.43e+300 events at the rate"),
    ([*DATES, "--horizon=1e300"], "--horizon = 1e+300 is longer than 292 years"),
    ([*DATES, "--horizon=" + "9" * 400 + "d"], "is longer than 292 years"),
    ([*DATES, "--horizon=1", "--t_end=1e12"], "t_end = 1000000000000.0 is longer than 292 years"),
    ([*DATES, "--horizon=1e-15"], "--horizon = 1e-15 is shorter than a nanosecond"),
    ([*FORECAST, "--horizon=1", "--bins=1000000000"], "bins = 1000000000 must be a whole number between 1 and 100000"),
    ([*FORECAST, "--horizon=1", "--bins=100000", "--num_paths=100000"], "bins = 100,000 with 100,000 paths and 4"),
    ([*FORECAST, "--horizon=1", "--max_histories=-1"], "--max_histories = -1 must be a whole number of at least 1"),
    ([*BACKTEST, "--origins=every 1e-9"], "a backtest has at most 1,000,000: give longer steps"),
    ([*BACKTEST, "--origins=every 5e-324"], "origins = 'every 5e-324' are inf in a sequence"),
    ([*BACKTEST, "--origins=every 5e-6"], "origins = 'every 5e-6' are 1,"),
    (
        [*PREDICT, "--requests.num_sequences=1000000000000"],
        "num_sequences = 1,000,000,000,000 would be 9,536,798 files",
    ),
    ([*PREDICT, "--requests.num_sequences=1" + "0" * 400], "must be a whole number between 1 and 4611686018427387904"),
    (
        [
            *PREDICT,
            "--data.path={}/numbers.csv",
            "--requests.continue_split=test",
            "--requests.given_events=2",
            "--requests.num_sequences=1000000000000",
        ],
        "num_sequences = 1,000,000,000,000 wants 83,819 GiB",
    ),
    (["convert", "{}/numbers.csv", "out", "--magnitudes=[1]"], "numbers.csv: is no Parquet file"),
    (["benchmark", "--untrained=1,1", "--num-events=1000000000"], "num_events = 1000000000 must be at most 1,000,000"),
    (["convert", "{}/numbers.csv", "out.arrow", "--mark_names=[]"], "mark_names is empty"),
    (["benchmark", "--untrained=1,1", "--seed=99999999999999999999"], "seed = 99999999999999999999 must be a whole"),
]


@pytest.mark.parametrize(
    ("words", "said"), TOO_MUCH, ids=lambda value: value[-1][-40:] if isinstance(value, list) else ""
)
def test_a_request_without_measure_is_refused_at_once(
    words: list[str], said: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits are stated, and checked before memory or time is taken."""
    assert said in sentence(files, tmp_path, monkeypatch, *words)


def test_a_training_split_without_a_scored_event_has_no_drift(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rate is 0, which nothing is compared with."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", str(files / "numbers.csv"), "--split_times=[1, 2]"]) == 0
    assert "rates drift" not in capsys.readouterr().out


def test_bins_are_bounded_in_python_too() -> None:
    with pytest.raises(ValueError, match="bins = 1000000000 must be a whole number between 1 and 100000"):
        tppsd.forecast(sampler.model(), EventSequence.of([0.5], [0], t_start=0.0, t_end=1.0), 2.0, bins=10**9)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"data: caf\xe9\n", "config.yaml: not a text file in UTF-8 (invalid continuation byte at byte 9)"),
        (b"data: [1,\n", "config.yaml: not a YAML file"),
        (b"data: 2024-02-30\n", "config.yaml: not a YAML file (day is out of range for month)"),
        (b"[1, 2]\n", "config.yaml: must hold keys and values, it holds a list"),
        (
            b"data: {class_path: a, init_args: [1]}\n",
            "config.yaml: init_args of data must hold options, it holds a list",
        ),
    ],
)
def test_a_damaged_configuration_of_a_run_is_said(
    content: bytes, said: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = files / f"run{len(content)}"
    shutil.copytree(files / "run", run)
    (run / "config.yaml").write_bytes(content)
    for command in (["forecast"], ["backtest"]):
        words = [*command, f"--run={run}", "--horizon=1", "--output=out"]
        assert said in sentence(files, tmp_path, monkeypatch, *words)
    if content.startswith(b"data: "):
        assert "config.yaml" in sentence(files, tmp_path, monkeypatch, "inspect", f"--config={run / 'config.yaml'}")


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
