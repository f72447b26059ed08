"""Two processes do what one does: the same gradients, metrics and samples. One launch, since each takes about ten
seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ddp_script
import pandas
import pytest
import torch
from lightning_helpers import SMALL, fitted
from metric_oracles import oracles

from tppsd import DraftTPP

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where one process and two processes have left their results."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    draft = fitted(DraftTPP(2, **SMALL), one / "draft.ckpt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "support" / "ddp_script.py"), str(two), str(draft)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ddp_script.fit_and_predict(one, 1, draft)
    return one, two


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("file", ["fit.pt", "distilled.pt"])
def test_fit_equals_one_process_on_the_same_global_batch(file: str, folders: tuple[Path, Path]) -> None:
    one, two = (torch.load(folder / file, weights_only=True) for folder in folders)
    for name, weight in one["weights"].items():
        if isinstance(weight, torch.Tensor):
            torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-6, msg=name)
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        if name not in ("sampling/speedup", "sampling/events_per_second"):  # wall-clock times
            assert two["metrics"][name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.distributed
def test_every_metric_equals_one_process_and_scipy(folders: tuple[Path, Path]) -> None:
    one, two = folders
    (single,), pair = ([torch.load(folder / f"{rank}.pt") for rank in range(n)] for folder, n in ((one, 1), (two, 2)))
    expected = oracles()
    for ranked in pair:
        assert ranked.keys() == single.keys() == expected.keys()
        for name, values in ranked.items():
            assert values == pytest.approx(single[name], rel=1e-12), name
            assert values[: len(expected[name])] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.slow
@pytest.mark.distributed
def test_predict_gives_every_index_once_and_the_same_sequences(folders: tuple[Path, Path]) -> None:
    one, two = (pandas.read_parquet(folder / "samples") for folder in folders)
    assert one["seq_idx"].tolist() == two["seq_idx"].tolist() == list(range(9))
    for mine, theirs in zip(one["type_event"], two["type_event"], strict=True):
        assert mine.tolist() == theirs.tolist()
    for mine, theirs in zip(one["time_since_start"], two["time_since_start"], strict=True):
        assert mine.tolist() == pytest.approx(theirs.tolist(), abs=1e-4)
    for folder in folders:
        assert pandas.read_parquet(folder / "few")["seq_idx"].tolist() == [0, 1, 2], "fewer chunks than processes"


@pytest.mark.slow
@pytest.mark.distributed
def test_a_job_of_two_processes_is_continued_by_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = folders
    samples = tmp_path / "samples"
    shutil.copytree(two / "samples", samples)
    expected = pandas.read_parquet(samples)
    sorted(samples.glob("*.parquet"))[1].unlink()
    assert ddp_script.predict(samples, two / "target.ckpt", one / "draft.ckpt") == 2, (
        "the chunk that was missing, and no other"
    )
    pandas.testing.assert_frame_equal(pandas.read_parquet(samples), expected, rtol=1e-9)


FIT = ["-m", "tppsd", "fit", "--data.process", "multivariate_hawkes", "--data.num_sequences", "40", "--data.t_end", "8",
       "--model.embed_dim", "8", "--model.num_heads", "2", "--model.dropout", "0", "--model.num_layers", "1",
       "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2",
       "--trainer.enable_progress_bar", "false"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_starts_a_fit_of_two_processes_that_equals_one_of_twice_the_batch(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = [*torchrun, *FIT, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "4"]
    one = [*FIT, "--trainer.devices", "1", "--data.batch_size", "8"]
    found = []
    for name, command in {"two": two, "one": one}.items():
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert [path.name for path in (folder / "outputs" / "fit").iterdir()] == ["version_0"], "one run, not two"
        last = folder / "outputs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
        found.append(torch.load(last, weights_only=True))
    assert [len(content["random_states"]) for content in found] == [2, 1]
    assert found[0]["global_step"] == found[1]["global_step"] == 8
    for name, weight in found[1]["state_dict"].items():
        if isinstance(weight, torch.Tensor):
            torch.testing.assert_close(found[0]["state_dict"][name], weight, rtol=0, atol=1e-5, msg=name)
