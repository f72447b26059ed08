"""A run knows its data: the same log with other rows is read by the same options, unit, origin and marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_helpers import tppsd

from tppsd import EventDataModule, load, sample
from tppsd.lightning.runs import with_run

OPTIONS = {"columns": "{sequence: case, time: when, mark: what}", "sort": "true", "missing_mark": "lost"}


def write_log(path: Path, seed: int, types: str, hours: float) -> Path:
    rng = np.random.default_rng(seed)
    lines = []
    for case in range(30):
        time = np.datetime64("2025-03-01") + np.timedelta64(int(rng.integers(0, 10**6)), "s")
        for _ in range(6):
            lines.append(f"{time},{case},{types[rng.integers(len(types))].strip()}")
            time += np.timedelta64(int(3600 * hours * rng.exponential()), "s")
    rng.shuffle(lines)
    path.write_text("\n".join(["when,case,what", *lines]))
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on a log of three types, one of which is missing."""
    folder = tmp_path_factory.mktemp("run")
    log = write_log(folder / "today.csv", 0, "abc ", hours=5.0)
    options = [word for name, value in OPTIONS.items() for word in (f"--data.{name}", value)]
    small = ["--model.num_layers", "1", "--model.embed_dim", "16", "--model.num_components", "2",
             "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
             "--renewal_baseline.num_steps", "0"]  # fmt: skip
    place = ["--trainer.logger.class_path", "lightning.pytorch.loggers.CSVLogger",
             "--trainer.logger.save_dir", str(folder), "--trainer.logger.name", "fit"]  # fmt: skip
    assert tppsd("fit", "--data.path", str(log), *options, *small, *place) == 0
    return folder / "fit" / "version_0"


def scores(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str]:
    status = tppsd(*args, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_data_and_best_checkpoint_come_from_the_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = scores(capsys, "validate", "--run", run_folder)
    assert status == 0 and "Scores on the validation split" in said
    own = [
        "--data.path",
        run_folder.parent.parent / "today.csv",
        "--ckpt_path",
        run_folder / "checkpoints" / "best.ckpt",
    ]
    own += [word for name, value in OPTIONS.items() for word in (f"--data.{name}", value)]
    for args in (own, ["--config", run_folder / "config.yaml"]):
        status, again = scores(capsys, "validate", *args)
        table = [line for line in said.splitlines() if line.startswith("│")]
        assert status == 0 and len(table) > 3 and all(line in again for line in table)


def test_tomorrows_log_is_read_in_the_units_and_marks_of_the_model(
    run_folder: Path, capsys: Any, tmp_path: Path
) -> None:
    """A log of two of the types, with gaps of minutes: alone it would have other marks and another unit."""
    tomorrow = write_log(tmp_path / "tomorrow.csv", 1, "ab", hours=0.3)
    words = with_run(["test", "--run", str(run_folder), "--data.path", str(tomorrow)])
    options = json.loads(words[1].removeprefix("--data="))["init_args"]
    statistics = load(run_folder / "checkpoints" / "best.ckpt").statistics
    assert options["time_unit"] == statistics.time_unit == "h" and options["origin"] == statistics.time_origin
    assert options["mark_names"] == list(statistics.mark_names or ()) == ["a", "b", "c", "lost"]
    status, said = scores(capsys, "validate", "--run", run_folder, "--data.path", tomorrow)
    assert status == 0 and "Scores on the validation split" in said
    own = [word for name, value in OPTIONS.items() for word in (f"--data.{name}", value)]
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    names = "[a, b, c, lost]"
    status, said = scores(
        capsys, "validate", "--ckpt_path", checkpoint, "--data.path", tomorrow, *own, "--data.mark_names", names
    )
    assert status == 2 and "was trained with times in h, but the data are read in min; say time_unit: h" in said
    unknown = write_log(tmp_path / "unknown.csv", 1, "abd", hours=0.3)
    status, said = scores(capsys, "validate", "--run", run_folder, "--data.path", unknown)
    assert status == 2 and "what = 'd' is none of mark_names, which are a, b, c, lost" in said


def test_a_run_is_opened_in_python_as_by_run(run_folder: Path, tmp_path: Path) -> None:
    """Its folder stands for its best checkpoint, and its data are read with all of its options."""
    model, best = load(run_folder), load(run_folder / "checkpoints" / "best.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), best.parameters(), strict=True))
    data = EventDataModule.of_run(run_folder)
    assert data.statistics == best.statistics
    tomorrow = write_log(tmp_path / "tomorrow.csv", 1, "ab", hours=0.3)
    other = EventDataModule.of_run(run_folder, path=tomorrow).statistics
    assert other.mark_names == best.statistics.mark_names and other.time_unit == "h", "of the model, not of the rows"
    sampled = sample(str(run_folder), num_events=3)
    assert torch.equal(sampled.flat_event_times, sample(best, num_events=3).flat_event_times)
    for open_it in (load, EventDataModule.of_run):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}: has no checkpoints/best.ckpt"):
            open_it(tmp_path)


def test_what_is_no_run(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is for validate, test, predict; fit goes on from --ckpt_path"):
        with_run(["fit", "--run", str(run_folder)])
    with pytest.raises(FileNotFoundError, match=r"has no checkpoints/best.ckpt; it must be a folder of `tppsd fit`"):
        with_run(["test", f"--run={tmp_path}"])
    (tmp_path / "version_3" / "checkpoints").mkdir(parents=True)
    (tmp_path / "version_3" / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"version_9: there is no such folder of .* has version_3$"):
        with_run(["test", f"--run={tmp_path / 'version_9'}"])
    assert with_run(["test", "--data.path", "x"]) == ["test", "--data.path", "x"]
    assert with_run(["fit", "--config", str(run_folder / "config.yaml")])[1] == "--config", "fit takes all of it"
    assert with_run(["predict", "--run", str(run_folder)])[2] == "--model.target"
