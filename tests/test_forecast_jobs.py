"""`tppsd forecast` and `tppsd backtest` as jobs: shared out in chunks, resumed, verified, and the same numbers."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from dated_log import READ, dated_model, write_dated_log
from lightning_helpers import tppsd as run_tppsd
from real_processes import tppsd as tppsd_process

import tppsd
from tppsd import cli
from tppsd.data.reading import read_dataset
from tppsd.forecasting import backtest_plan
from tppsd.forecasting.forecast import forecast
from tppsd.lightning.forecast_job import Forecaster
from tppsd.lightning.forecast_writer import _most_alive
from tppsd.lightning.job_folder import JOB, LOCK, MANIFEST, Lock
from tppsd.sampling.job import SamplingJob
from tppsd.sampling.requests import Wanted

NUM_CASES, CHUNK = 12, 5
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
RESULTS = {
    "forecast": ["forecast.parquet", "forecast.csv", "forecast.html"],
    "backtest": ["scores.parquet", "scores.csv", "scores.json", "origins.csv", "backtest.html"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_dated_log(tmp_path_factory.mktemp("files"), NUM_CASES)


def words(command: str, files: tuple[str, str], output: Path, *more: str) -> list[str]:
    own = {
        "forecast": ["--horizon", "120min", "--num_paths", "20", "--bins", "2", "--chunk_size", str(CHUNK)],
        "backtest": ["--horizon", "1", "--num_paths", "10", "--chunk_size", "2", "--baselines", "[poisson]",
                     "--split", "test", "--fractions", "[0.2, 0.2, 0.6]", "--origins", "every 1h"],
    }  # fmt: skip
    return [command, files[0], *READ, "--model", files[1], *own[command], *QUIET, "--output", str(output), *more]


@pytest.fixture(scope="module", params=["forecast", "backtest"])
def finished(
    request: pytest.FixtureRequest, files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A command and its folder, when it is done."""
    folder = tmp_path_factory.mktemp(request.param) / "out"
    assert cli.main(words(request.param, files, folder)) == 0
    return request.param, folder


@pytest.fixture
def job(finished: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """A copy to damage."""
    return finished[0], Path(shutil.copytree(finished[1], tmp_path / "out"))


def shards(folder: Path) -> list[Path]:
    return sorted((folder / ".shards").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verify(folder: Path) -> int:
    try:
        return run_tppsd("verify", folder)
    except SystemExit as ended:
        return int(ended.code or 0)


# --- the numbers -----------------------------------------------------------------------------------------------------


def single_call(files: tuple[str, str]) -> pd.DataFrame:
    """All histories in one call of `tppsd.forecast`, in the order of the command."""
    options = {"columns": {"sequence": "case", "mark": "activity"}, "origin": "2024-03-01T00:00:00", "time_unit": "h"}
    dataset = read_dataset(files[0], fractions=(1 / 3, 1 / 3, 1 / 3), **options)
    histories = [sequence for split in dataset.splits.values() for sequence in split]
    found = tppsd.forecast(dated_model(), histories, 2.0, num_paths=20, bins=2).to_pandas()
    file = io.BytesIO()
    found.sort_values("history", kind="stable", ignore_index=True).to_parquet(file)
    return pd.read_parquet(file)


def test_a_forecast_in_chunks_is_the_one_of_a_single_call(
    finished: tuple[str, Path], files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, names and dates as well. A mutant that draws every chunk with the noise of the first is another forecast."""
    if finished[0] != "forecast":
        return
    expected = single_call(files)
    found = pd.read_parquet(finished[1] / "forecast.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-5, atol=1e-7, check_dtype=False)
    assert len(pd.read_csv(finished[1] / "forecast.csv")) == len(found)

    right = SamplingJob.plan

    def forgetful(self: SamplingJob, wanted: Wanted) -> Any:
        return right(self, wanted._replace(first_index=0))

    monkeypatch.setattr(SamplingJob, "plan", forgetful)
    assert cli.main(words("forecast", files, tmp_path / "mutant")) == 0
    mutant = pd.read_parquet(tmp_path / "mutant" / "forecast.parquet")
    first = mutant["history"] < CHUNK
    pd.testing.assert_frame_equal(mutant[first], expected[first], rtol=1e-5, atol=1e-7, check_dtype=False)
    others = (mutant["estimate"] - expected["estimate"]).abs()[~first]
    assert (others > 1e-3).sum() > 0.2 * len(others)


def test_a_backtest_in_chunks_is_the_one_of_a_single_call(finished: tuple[str, Path], files: tuple[str, str]) -> None:
    if finished[0] != "backtest":
        return
    options = {"columns": {"sequence": "case", "mark": "activity"}, "origin": "2024-03-01T00:00:00", "time_unit": "h"}
    dataset = read_dataset(
        files[0], fractions=(0.2, 0.2, 0.6), mark_names=dated_model().statistics.mark_names, **options
    )
    arguments: dict[str, Any] = {"origins": "every 1h", "num_paths": 10, "baselines": ["poisson"]}
    arguments["training_sequences"] = dataset.sequences("train")
    expected = tppsd.backtest(dated_model(), dataset.sequences("test"), 1.0, **arguments)
    assert len(shards(finished[1])) > 2 and len(expected.origins.times) > 4
    found = pd.read_parquet(finished[1] / "scores.parquet")
    pd.testing.assert_frame_equal(found, expected.to_pandas(), check_exact=False, rtol=1e-6, atol=1e-9)
    record = json.loads((finished[1] / "scores.json").read_text())
    assert record["num_origins"] == len(expected.origins.times)


def test_a_backtest_keeps_the_paths_of_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most histories that are forecast together are those of a chunk, whatever the number of origins."""
    seen: list[int] = []
    right = backtest_plan.forecast

    def counted(model: Any, histories: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(len(histories))
        return right(model, histories, *arguments, **named)

    monkeypatch.setattr(backtest_plan, "forecast", counted)
    process = tppsd.processes.Hawkes(0.6, 0.7, 1.5)
    rows = process.simulate(10, t_end=8.0, seed=3)
    chunked = tppsd.backtest(process, rows, 2.0, "every 2", num_paths=10, baselines=(), chunk_size=6)
    assert max(seen) == 6 and sum(seen) == 1 + len(chunked.origins.times)
    whole = tppsd.backtest(process, rows, 2.0, "every 2", num_paths=10, baselines=())
    pd.testing.assert_frame_equal(chunked.to_pandas(), whole.to_pandas(), rtol=1e-9)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_finished_job_is_verified_and_not_done_again(
    job: tuple[str, Path], files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = job
    before, times = content(folder), [path.stat().st_mtime_ns for path in shards(folder)]
    assert verify(folder) == 0
    said, following = capsys.readouterr().out.splitlines()
    assert f"all {len(shards(folder)) + len(RESULTS[command])} files are there" in said
    assert len(eval(following.removeprefix("Next: "), {"pandas": pd})), "beside it lie a CSV file and a page"
    assert cli.main(words(command, files, folder)) == 0
    assert content(folder) == before and [path.stat().st_mtime_ns for path in shards(folder)] == times


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fewer_rows(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) // 3), path)


def other_items(path: Path) -> None:
    shutil.copy(path.parent / path.name.replace("00001", "00000", 1), path)


@pytest.mark.parametrize(
    ("damage", "with_manifest"), [(gone, False), (cut, True), (fewer_rows, False), (other_items, False)]
)
def test_what_is_damaged_is_named_and_done_again_and_nothing_else(
    damage: Callable[[Path], None],
    with_manifest: bool,
    job: tuple[str, Path],
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, folder = job
    before, second = content(folder), shards(folder)[1]
    damage(second)
    if not with_manifest:
        (folder / MANIFEST).unlink()
    times = {path: path.stat().st_mtime_ns for path in shards(folder) if path != second}
    assert verify(folder) == 1
    named = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith(".shards/")]
    assert named == [f".shards/{second.name}"]
    assert cli.main(words(command, files, folder)) == 0
    assert content(folder) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_result_that_is_damaged_is_named_and_made_again(
    job: tuple[str, Path], files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = job
    before, (first, second, *_) = content(folder), RESULTS[command]
    (folder / first).unlink()
    (folder / second).write_text("nothing")
    assert verify(folder) == 1
    said = capsys.readouterr().out
    assert f"{first}: is missing" in said and f"{second}: its SHA-256 is not that of the manifest" in said
    assert cli.main(words(command, files, folder)) == 0 and content(folder) == before


def test_a_folder_of_another_job_is_refused_and_left_alone(
    job: tuple[str, Path], files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = job
    other = {"forecast": "backtest", "backtest": "forecast"}[command]
    before = content(folder)
    kind = {"forecast": "forecasts", "backtest": "scores"}[command]
    for given, said in (
        (words(command, files, folder, "--seed", "4"), f"holds {kind} of another job (seed is 0 there and 4 here)"),
        (words(other, files, folder), f"holds {kind} of `tppsd {command}`; choose another --output"),
    ):
        assert cli.main(given) == 2
        error = capsys.readouterr().err
        assert said in error and "--writer.output_dir" not in error
        assert content(folder) == before
    (folder / JOB).unlink()
    assert cli.main(words(command, files, folder)) == 2
    assert "already holds" in capsys.readouterr().err


def test_ids_belong_to_the_job(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same times and marks under other ids are other forecasts."""
    log = tmp_path / "log.csv"
    log.write_text(Path(files[0]).read_text())
    assert cli.main(words("forecast", (str(log), files[1]), tmp_path / "out")) == 0
    log.write_text(log.read_text().replace("case-11", "case-99"))
    assert cli.main(words("forecast", (str(log), files[1]), tmp_path / "out")) == 2
    assert "histories is '" in capsys.readouterr().err


def test_one_folder_has_one_writer(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = Lock(tmp_path / "out")
    lock.acquire()
    assert cli.main(words("forecast", files, tmp_path / "out")) == 2
    assert f"is being written by process {os.getpid()} on " in capsys.readouterr().err
    lock.release()


def test_what_killed_writers_have_left_is_removed(job: tuple[str, Path], files: tuple[str, str]) -> None:
    command, folder = job
    left = [f".{name}.77" for name in RESULTS[command]] + [f".shards/.{shards(folder)[0].name}.123", f"{JOB}.7.1"]
    for name in left:
        (folder / name).write_text("half")
    assert cli.main(words(command, files, folder)) == 0
    assert not any((folder / name).exists() for name in left) and not (folder / LOCK).exists()


def test_the_figures_are_of_the_paths_that_the_table_rests_on(files: tuple[str, str]) -> None:
    dataset = read_dataset(files[0], columns={"sequence": "case", "mark": "activity"}, origin="2024-03-01T00:00:00")
    histories = dataset.sequences("train")
    module = Forecaster(dated_model(), histories, 1.0, num_paths=10)
    whole = forecast(dated_model(), histories, 1.0, num_paths=10)
    for i, figure in zip((0, 3), module.figures((0, 3)), strict=True):
        assert figure.get_suptitle() == f"case-{i}: forecast of 10 paths"
        mean = torch.as_tensor(figure.axes[0].lines[0].get_ydata())[-1]  # of the number of events at the horizon
        assert math.isclose(mean, float(whole.expected_counts(estimator="frequency").value[i, -1]))


def test_the_page_begins_with_histories_that_go_on(tmp_path: Path) -> None:
    """Others, which have ended long ago, have nothing to show; equal ones keep their order."""
    chances = [0.001, 0.004, 0.92, 0.5, *[0.921] * 11, 0.0]
    rows = [(i, "probability", value) for i, chance in enumerate(chances) for value in (0.99, chance)]
    for part, own in enumerate((rows[:10], rows[10:])):
        pd.DataFrame(own, columns=["history", "quantity", "estimate"]).to_parquet(tmp_path / f"{part}.parquet")
    assert _most_alive([tmp_path / "0.parquet", tmp_path / "1.parquet"]) == ([2, *range(4, 15)], 0.921)


# --- real processes --------------------------------------------------------------------------------------------------


def wait_for_shards(folder: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1800):
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
        if (folder / ".shards").exists() and len(list((folder / ".shards").glob("*.parquet"))) >= 2:
            return
        time.sleep(0.05)
    raise AssertionError("no shards")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("command", "how"), [("forecast", signal.SIGKILL), ("backtest", signal.SIGTERM)])
def test_killed_and_started_again_on_two_processes_it_is_the_unbroken_run(
    command: str, how: signal.Signals, tmp_path: Path
) -> None:
    """To the last bit of every file, each item once; what was done before the signal is not done again."""
    files = write_dated_log(tmp_path, 60)
    more = {"forecast": ["--num_paths", "100", "--chunk_size", "2"], "backtest": ["--num_paths", "60"]}[command]
    with tppsd_process(tmp_path, *words(command, files, tmp_path / "one", *more)) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    folder = tmp_path / "two"
    with tppsd_process(tmp_path, *words(command, files, folder, *more)) as process:
        wait_for_shards(folder, process)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
    done, total = shards(folder), len(shards(tmp_path / "one"))
    done = [path for path in done if path.suffix == ".parquet"]
    assert 2 <= len(done) < total and not (folder / MANIFEST).exists()
    if how is signal.SIGTERM:
        assert process.returncode == 143
        assert f"tppsd {command}: stopped by SIGTERM with {len(done)} of {total} files" in said
    times = {path: path.stat().st_mtime_ns for path in done}
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    with tppsd_process(tmp_path, *words(command, files, folder, *more, *two)) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {name: data for name, data in content(folder).items() if name != MANIFEST} == {
        name: data for name, data in content(tmp_path / "one").items() if name != MANIFEST
    }
    if command == "forecast":
        found = pd.read_parquet(folder / "forecast.parquet")
        assert found["history"].drop_duplicates().tolist() == list(range(60))
        assert not found.duplicated(["history", "quantity", "mark", "from", "to", "level"]).any()
