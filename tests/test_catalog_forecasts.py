"""`tppsd forecast --format csep`: the catalogues are the paths of the forecast, and belong to its job."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dated_log import READ, dated_model, write_dated_log
from lightning_helpers import tppsd as run_tppsd

from tppsd import cli, load, read_histories
from tppsd.data.catalogs import CatalogFormat
from tppsd.data.marks import bin_names, lower_edges
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.lightning import shard_writer
from tppsd.lightning.forecast_job import Forecaster
from tppsd.lightning.job_folder import JOB, MANIFEST
from tppsd.models.checkpoint import save

NUM_CASES, NUM_PATHS, EDGES = 7, 20, (1.0, 1.5, 2.25)
BINS = ["--mark_bins", "[1, 1.5, 2.25]", "--columns", "{sequence: case, mark: magnitude}"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A log of magnitudes, and a model whose marks are their bins."""
    folder = tmp_path_factory.mktemp("files")
    log, _ = write_dated_log(folder, NUM_CASES)
    table = pd.read_csv(log)
    sizes = dict(zip(("admission", "discharge", "surgery"), (1.25, 1.75, 3.0), strict=True))
    table.assign(magnitude=table.pop("activity").map(sizes)).to_csv(log, index=False)
    target = dated_model()
    target.set_statistics(dataclasses.replace(target.statistics, mark_names=bin_names(EDGES)))
    save(target, folder / "target.ckpt")
    return log, str(folder / "target.ckpt")


def words(files: tuple[str, str], output: Path, *more: str) -> list[str]:
    own = ["--horizon", "120min", "--num_paths", str(NUM_PATHS), "--bins", "2", "--chunk_size", "3"]
    quiet = ["--trainer.enable_progress_bar", "false"]
    return ["forecast", files[0], *BINS, "--model", files[1], *own, *quiet, "--output", str(output), *more]


@pytest.fixture(scope="module")
def finished(files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert cli.main(words(files, folder, "--format", "csep")) == 0
    return folder


@pytest.fixture
def job(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def catalogs(path: Path) -> pd.DataFrame:
    """Return the events of a file; its last catalogue has a row, with or without one."""
    table = pd.read_csv(path)
    assert list(table) == ["lon", "lat", "mag", "time_string", "depth", "catalog_id", "event_id"]
    assert table["catalog_id"].max() == NUM_PATHS - 1
    return table[table["mag"].notna()]


def asked(files: tuple[str, str]) -> Forecast:
    """The same forecast in Python, by one call."""
    target = load(files[1])
    columns = {"sequence": "case", "mark": "magnitude"}
    histories = read_histories(files[0], target, columns=columns, mark_bins=list(EDGES))
    return forecast(target, histories, 2.0, num_paths=NUM_PATHS, bins=2)


def test_the_catalogues_are_the_paths_that_the_forecast_rests_on(files: tuple[str, str], finished: Path) -> None:
    """Mutants: paths of another history or seed, marks without their edges, times since the end of the history."""
    expected, table = asked(files), pd.read_parquet(finished / "forecast.parquet")
    names = [f"{np.datetime64(one, 's')}.csv".replace(":", "-") for one in ends(expected)]
    assert sorted(names) == sorted(path.name for path in (finished / "csep").iterdir()) and len(set(names)) == NUM_CASES
    counts = expected.expected_counts(estimator="frequency").value
    for i, name in enumerate(names):
        found = catalogs(finished / "csep" / name)
        paths = expected.paths[NUM_PATHS * i : NUM_PATHS * i + NUM_PATHS]
        assert found["catalog_id"].tolist() == [j for j, path in enumerate(paths) for _ in path.marks]
        assert found["mag"].tolist() == [EDGES[mark] for path in paths for mark in path.marks]
        hours = (pd.to_datetime(found["time_string"]) - pd.Timestamp("2024-03-01")) / pd.Timedelta(1, "h")
        np.testing.assert_allclose(hours, [t for path in paths for t in path.event_times.tolist()], atol=1e-5)
        since = (pd.to_datetime(found["time_string"]) - ends(expected)[i]) / pd.Timedelta(1, "h")
        for b in range(2):
            is_in = (since > b) & (since <= b + 1)
            of_marks = [((found["mag"] == edge) & is_in).sum() / NUM_PATHS for edge in EDGES]
            np.testing.assert_allclose([*of_marks, is_in.sum() / NUM_PATHS], counts[i, :, b], atol=1e-9)
        is_own = (table["history"] == i) & (table["quantity"] == "count_quantile") & (table["mark"] == "any")
        quantiles = table[is_own].sort_values("from").head(5)  # of the first bin: of the numbers on these very paths
        numbers = np.bincount(found.loc[since <= 1, "catalog_id"], minlength=NUM_PATHS)
        wanted = np.quantile(numbers, quantiles["level"], method="inverted_cdf")
        np.testing.assert_allclose(quantiles["estimate"], wanted)


def ends(found: Forecast) -> list[pd.Timestamp]:
    """The dates until which the histories were observed."""
    return [pd.Timestamp("2024-03-01") + pd.Timedelta(one.window_end, "h").round("ms") for one in found.histories]


def test_without_the_option_there_is_no_catalogue(
    files: tuple[str, str], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are the same, the record of the job is that of before, and the two are two jobs."""
    assert cli.main(words(files, tmp_path / "out")) == 0
    assert not (tmp_path / "out" / "csep").exists()
    assert (tmp_path / "out" / "forecast.csv").read_bytes() == (finished / "forecast.csv").read_bytes()
    plain, own = (json.loads((folder / JOB).read_text()) for folder in (tmp_path / "out", finished))
    assert own == plain | {"format": "csep", "magnitudes": list(EDGES)} and "format" not in plain
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert not any("attached" in shard for shard in manifest["shards"])
    before = content(tmp_path / "out")
    assert cli.main(words(files, tmp_path / "out", "--format", "csep")) != 0
    assert "another job (format is None there and 'csep' here)" in capsys.readouterr().err
    assert content(tmp_path / "out") == before


def test_magnitudes_that_are_given_are_written(files: tuple[str, str], tmp_path: Path, finished: Path) -> None:
    given = ["--format", "csep", "--magnitudes", "[4, 5, 6.5]", "--max_histories", "1"]
    assert cli.main(words(files, tmp_path / "out", *given)) == 0
    (path,) = (tmp_path / "out" / "csep").iterdir()
    found, by_edges = catalogs(path), catalogs(finished / "csep" / path.name)
    assert found["mag"].tolist() == by_edges["mag"].map(dict(zip(EDGES, (4.0, 5.0, 6.5), strict=True))).tolist()


def verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    try:
        status = run_tppsd("verify", folder)
    except SystemExit as done:
        status = int(done.code or 0)
    return status, capsys.readouterr().out


def test_damaged_catalogues_are_named_and_made_again(
    files: tuple[str, str], job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutants: whoever looks at the shards alone finds nothing wrong, and does nothing again."""
    status, said = verified(job, capsys)
    assert status == 0 and f"all {3 + 3 + NUM_CASES} files are there and as they were written" in said
    whole, names = content(job), sorted(path.name for path in (job / "csep").iterdir())
    (job / "csep" / names[0]).unlink()
    (job / "csep" / names[-1]).write_text("lon,lat\n")
    (job / "csep" / "other.csv").write_text("")
    for is_finished in (True, False):
        if not is_finished:
            (job / MANIFEST).unlink()
            (job / "csep" / "other.csv").unlink()
        status, said = verified(job, capsys)
        assert status == 1 and f"csep/{names[0]}: is missing" in said and f"csep/{names[-1]}: is damaged" in said
        assert ("csep/other.csv: is not in the manifest" in said) is is_finished
        assert names[1] not in said
    others = {path: path.stat().st_mtime_ns for path in (job / ".shards").iterdir()}
    assert cli.main(words(files, job, "--format", "csep")) == 0
    assert content(job) == whole and verified(job, capsys)[0] == 0
    again = [path for path, time in others.items() if path.stat().st_mtime_ns != time]
    assert 0 < len(again) < len(others)  # nothing but the chunks of the two


def test_an_interrupted_job_ends_with_the_same_files(files: tuple[str, str], finished: Path, tmp_path: Path) -> None:
    """Interrupted after its first chunk; of a writer that was killed a temporary file is left."""
    folder = tmp_path / "out"
    asked_for = words(files, folder, "--format", "csep")
    cli.main([*asked_for, "--trainer.limit_predict_batches", "1"])
    assert len(list((folder / "csep").iterdir())) == 3
    left = folder / "csep" / ".2024-03-02T00-00-00.csv.123"
    left.write_text("lon")
    assert cli.main(asked_for) == 0
    assert not left.exists() and content(folder) == content(finished)


def test_a_job_that_fails_before_its_first_file_leaves_nothing(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: catalogues without a record, which every later job in the folder takes for somebody else's."""

    def fail(*_: object) -> None:
        assert list((tmp_path / "out" / "csep").iterdir())
        raise RuntimeError("no")

    with monkeypatch.context() as broken:
        broken.setattr(shard_writer, "write_shard", fail)
        with pytest.raises(RuntimeError, match="no"):
            cli.main(words(files, tmp_path / "out", "--format", "csep"))
    assert not (tmp_path / "out").exists()


def test_files_of_somebody_else_stay(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "csep").mkdir()
    (tmp_path / "csep" / "mine.csv").write_text("mine")
    assert cli.main(words(files, tmp_path, "--format", "csep")) != 0
    assert "already holds csep/, and no record of its job" in capsys.readouterr().err
    assert content(tmp_path) == {"csep/mine.csv": b"mine"}


CASES = [
    (["--magnitudes", "[1, 2, 3]"], "--magnitudes says what --format csep writes"),
    (["--format", "csep", "--magnitudes", "[1, 2]"], "--magnitudes [1.0, 2.0] must have one value for each of the"),
    (["--format", "csep", "--magnitudes", "[1, 2, .nan]"], "--magnitudes [1.0, 2.0, nan] must be numbers"),
    (["--format", "csep", "--stop_marks", "[0]"], "--stop_marks ends paths before the horizon"),
    (["--format", "json"], "--format json is unknown; there is csep alone"),
    (["--format", "csep", "--t_end", "last"], "--format csep is for the histories of one stream"),
]


@pytest.mark.parametrize(("options", "message"), CASES)
def test_what_cannot_be_written_is_refused_before_anything_is_sampled(
    options: list[str],
    message: str,
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Forecaster, "predict_step", lambda *_: pytest.fail("something is sampled"))
    assert cli.main(words(files, tmp_path / "out", *options)) != 0
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_models_without_dates_or_bins_are_refused() -> None:
    """A mark that is no bin has no magnitude that anybody could guess."""
    statistics = dated_model().statistics
    with pytest.raises(ValueError, match="--format csep writes dates, and the times of the model's data are numbers"):
        CatalogFormat.of(dataclasses.replace(statistics, time_origin=None), EDGES)
    with pytest.raises(ValueError, match=r"the marks \(admission, discharge, surgery\) are no bins of mark_bins; give"):
        CatalogFormat.of(statistics, None)
    with pytest.raises(ValueError, match=r"the marks \(0\) are no bins of mark_bins; give --magnitudes"):
        CatalogFormat.of(dataclasses.replace(statistics, num_marks=1, mark_names=None), None)
    assert CatalogFormat.of(statistics, [1, 2, 3]).magnitudes == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("edges", [(1.0,), (1.0, 1.5, 2.0, 2.5), (-1.25, 0.0, 1e6), (0.1, 0.2, 0.3)])
def test_bins_are_known_by_their_names(edges: tuple[float, ...]) -> None:
    assert lower_edges(bin_names(edges)) == edges
    for other in ((*bin_names(edges), "other"), ("a",), ("[1, 2)",), ("[1, 2)", "[3, inf)"), ("1", "2"), (), None):
        assert lower_edges(other) is None


def test_convert_takes_the_magnitudes_of_bins(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--model.target", files[1], "--data.path", files[0], "--data.mark_bins", "[1, 1.5, 2.25]"]
    words += ["--data.columns", "{sequence: case, mark: magnitude}", "--data.origin", "2024-03-01", "--data.time_unit"]
    words += ["h", "--data.fractions", "[0.6, 0.2, 0.2]"]
    words += ["--requests.continue_split", "train", "--requests.given_fraction", "1", "--requests.horizon", "2"]
    words += ["--requests.num_sequences", str(NUM_PATHS), "--writer.output_dir", str(tmp_path / "samples")]
    assert run_tppsd(*words, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false") == 0, (
        capsys.readouterr().err
    )
    for name, given in (("bins", []), ("told", ["--magnitudes", "[1, 1.5, 2.25]"])):
        assert cli.main(["convert", str(tmp_path / "samples"), str(tmp_path / name), "--format", "csep", *given]) == 0
    assert content(tmp_path / "bins") == content(tmp_path / "told")
    assert set(catalogs(next((tmp_path / "bins").iterdir()))["mag"]) <= set(EDGES)
    log, _ = write_dated_log(tmp_path, 2)
    assert READ and cli.main(["convert", log, str(tmp_path / "none"), "--format", "csep"]) != 0
    assert "give samples of `tppsd predict`" in capsys.readouterr().err and not (tmp_path / "none").exists()
