"""A disk that is full, or a file as large as may be: one sentence names the file, and nothing half-written is left.

The commands run in a process whose files may have 4 KiB, so that writes fail for real. Mutants: a writer that lets the
error of its library through (`torch.save` says "unexpected pos", NumPy's `tofile` "1872 requested and 512 written").
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from real_processes import ROOT

import tppsd
from tppsd.data.reading import read_dataset
from tppsd.data.whole_files import UnwritableError
from tppsd.lightning.datamodule import EventDataModule

MOST = 4096  # bytes
FIT = ["fit", "--model.embed_dim=8", "--model.num_heads=2", "--trainer.max_epochs=1", "--trainer.logger=false"]
FIT += ["--trainer.enable_progress_bar=false", "--renewal_baseline.num_steps=0", "--trainer.default_root_dir=fit"]
COMMANDS = {  # -> the file that the sentence names
    "checkpoints/best.ckpt": FIT,
    "log.parquet": ["convert", "log.csv", "log.parquet"],
    "log.arrow": ["convert", "log.csv", "log.arrow"],
    "log.html": ["inspect", "log.csv", "--report", "log.html"],
    "samples/train-00000-of-00001.parquet": [
        "predict", "--model.target=model.ckpt", "--requests.num_events=20", "--requests.num_sequences=100",
        "--writer.output_dir=samples", "--trainer.enable_progress_bar=false",
    ],
    "forecast/.shards/forecast-00000-of-00001.parquet": [
        "forecast", "log.csv", "--model=model.ckpt", "--horizon=2", "--num_paths=10", "--output=forecast",
    ],
    "backtest/.shards/scores-00000-of-00001.parquet": [
        "backtest", "log.csv", "--model=model.ckpt", "--horizon=2", "--num_paths=10", "--output=backtest",
        "--baselines=[]",
    ],
}  # fmt: skip


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process become larger than MOST."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and a model of it."""
    folder = tmp_path_factory.mktemp("full")
    rows = [f"{i},{0.5 * j + 0.005 * i * (j % 2):.3f},{'abc'[(i + j) % 3]}" for i in range(60) for j in range(1, 20)]
    (folder / "log.csv").write_text("\n".join(["sequence,time,mark", *rows]))
    torch.manual_seed(0)
    model = tppsd.TransformerTPP(3, embed_dim=8, num_heads=2, num_layers=1, num_components=4)
    model.set_statistics(EventDataModule(str(folder / "log.csv")).statistics)
    model.save(folder / "model.ckpt")
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, tuple[int, str]]:
    """Exit status and stderr of all commands, which run in one process."""
    lines = [[*line, f"--data.path={folder / 'log.csv'}"] if line is FIT else line for line in COMMANDS.values()]
    command = [sys.executable, str(ROOT / "tests" / "support" / "small_files.py"), str(MOST), json.dumps(lines)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(COMMANDS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("file", COMMANDS)
def test_the_file_that_cannot_be_written_is_named(file: str, said: dict[str, tuple[int, str]], folder: Path) -> None:
    status, text = said[file]
    assert status == 2 and "Traceback" not in text, text[-3000:]
    (line,) = [line for line in text.splitlines() if ": error: " in line]
    assert f"{file}: cannot be written (File too large); raise the limit of the size of a file (`ulimit -f`)" in line
    assert not (folder / file).exists()


def test_nothing_half_written_is_left(said: dict[str, tuple[int, str]], folder: Path) -> None:
    """The configuration of a fit is there as a whole; jobs that have not begun leave no folder."""
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"log.csv", "model.ckpt", "fit/config.yaml"}
    assert not any((folder / name).exists() for name in ("samples", "forecast", "backtest"))


def test_a_model_that_does_not_fit_leaves_the_one_before(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes((folder / "model.ckpt").read_bytes())
    model = tppsd.load(path)
    with small_files(), pytest.raises(UnwritableError, match=r"model\.ckpt: cannot be written \(File too large\)"):
        model.save(path)
    assert os.listdir(tmp_path) == ["model.ckpt"]
    assert path.read_bytes() == (folder / "model.ckpt").read_bytes()


def test_the_file_of_a_python_caller_is_named(folder: Path, tmp_path: Path) -> None:
    """Samples and a figure take their names when they are whole, or never."""
    from tppsd import plots

    samples = tppsd.sample(tppsd.load(folder / "model.ckpt"), num_sequences=100, num_events=20)
    figure = plots.raster({"data": read_dataset(folder / "log.csv").sequences("train")})
    with small_files():
        with pytest.raises(UnwritableError, match=r"samples\.parquet: cannot be written"):
            samples.to_parquet(tmp_path / "samples.parquet")
        with pytest.raises(UnwritableError, match=r"figure\.png: cannot be written"):
            plots.save(figure, tmp_path / "figure.png")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_said(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tppsd", "inspect", "log.csv"]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "tppsd: error: what is printed or logged cannot be written (No space left on device); "
        "make room on the disk, or write elsewhere\n"
    )
