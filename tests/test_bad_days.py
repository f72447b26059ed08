"""Real processes on bad days: signals, a process that never comes or dies, and training that diverges on one of two."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pandas
import pytest
import torch
from lightning_helpers import SMALL, fitted
from real_processes import ROOT, children, tppsd

from tppsd import TargetTPP

pytestmark = [pytest.mark.slow]
NUM = 60_000  # sequences, of which a run is far from done when it is told to stop
SAMPLED = ["--requests.num_events", "20", "--requests.num_sequences", str(NUM), "--requests.chunk_size", "64"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return fitted(TargetTPP(2, **SMALL), tmp_path_factory.mktemp("target") / "target.ckpt")


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "samples").glob("*.parquet"))


def wait_for_shards(folder: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]
        if len(shards(folder)) >= 3:
            return
        time.sleep(0.1)
    raise AssertionError("no shards")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def assert_whole(folder: Path) -> None:
    """What is there is whole, in its place, and nothing else is."""
    for path in shards(folder):
        chunk = int(path.name.split("-")[1])
        assert pandas.read_parquet(path)["seq_idx"].tolist() == list(range(64 * chunk, min(64 * chunk + 64, NUM)))
    assert not list((folder / "outputs" / "samples").glob(".*train*"))


def test_sigterm_ends_predict_after_the_shard_in_hand(target: Path, tmp_path: Path) -> None:
    with tppsd(tmp_path, "predict", *QUIET, *SAMPLED, "--model.target", target) as process:
        wait_for_shards(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said[-3000:]
    (line,) = [line for line in said.splitlines() if line.startswith("tppsd predict: ")]
    assert f"stopped by SIGTERM with {len(shards(tmp_path))} of 938 files" in line and "the same command" in line
    assert 3 <= len(shards(tmp_path)) < 938
    assert_whole(tmp_path)
    assert not (tmp_path / "outputs" / "samples" / ".lock").exists()


def test_a_second_writer_is_refused_and_a_killed_one_is_no_obstacle(target: Path, tmp_path: Path) -> None:
    arguments = ["predict", *QUIET, *SAMPLED, "--model.target", target]
    with tppsd(tmp_path, *arguments) as first:
        wait_for_shards(tmp_path, first)
        with tppsd(tmp_path, *arguments) as second:
            _, said = second.communicate(timeout=120)
        assert second.returncode == 2 and f"is being written by process {first.pid} on " in said
        first.kill()
        first.wait()
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    left = tmp_path / "outputs" / "samples" / ".train-00900-of-00938.parquet.1"
    left.write_text("half")
    with tppsd(tmp_path, *arguments) as third:
        for _ in range(1200):
            if len(shards(tmp_path)) > len(before):
                break
            time.sleep(0.1)
        third.send_signal(signal.SIGTERM)
        third.communicate(timeout=120)
    assert third.returncode == 143 and not left.exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing was sampled again"
    assert_whole(tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize("told", ["first", "second"])
def test_sigterm_to_one_of_two_processes_is_no_success(told: str, target: Path, tmp_path: Path) -> None:
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    with tppsd(tmp_path, "predict", *QUIET, *two, *SAMPLED, "--model.target", target) as process:
        wait_for_shards(tmp_path, process)
        (other,) = [pid for pid in children(process.pid) if "tppsd" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(process.pid if told == "first" else other, signal.SIGTERM)
        _, said = process.communicate(timeout=180)
    assert process.returncode == (143 if told == "first" else process.returncode) != 0
    assert "stopped by SIGTERM with" in said and "sequences with" not in said
    assert len(shards(tmp_path)) < 938
    assert_whole(tmp_path)


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_never_comes_is_waited_for_so_long_and_no_longer(
    rank: int, target: Path, tmp_path: Path
) -> None:
    alone = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "GROUP_RANK": "0"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "LOCAL_WORLD_SIZE": "2"}
    alone |= {"TORCHELASTIC_RUN_ID": "1"}  # as torchrun starts it
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--start_timeout", "3"]
    arguments = ["predict", *QUIET, *two, *SAMPLED, "--model.target", target]
    with tppsd(tmp_path, *arguments, **alone) as process:
        _, said = process.communicate(timeout=150)
    assert process.returncode == 2, said[-3000:]
    (line,) = [line for line in said.splitlines() if line.startswith("tppsd predict: error: ")]
    assert f"process {rank} of 2 waited 3 seconds for the others" in line and "--start_timeout" in line


def test_sigterm_ends_fit_with_a_status_that_says_so(tmp_path: Path) -> None:
    data = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "40", "--data.t_end", "8"]
    size = ["--model.embed_dim", "8", "--model.num_heads", "2", "--trainer.max_epochs", "100000"]
    endless = ["--early_stopping.patience", "100000", "--trainer.log_every_n_steps", "1"]
    with tppsd(tmp_path, "fit", *QUIET, *data, *size, *endless) as process:
        last = tmp_path / "outputs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"
        for _ in range(600):
            if last.exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said[-3000:]
    (line,) = [line for line in said.splitlines() if line.startswith("tppsd fit: ")]
    assert "stopped by SIGTERM at step" in line and "--ckpt_path outputs/fit/version_0/checkpoints/last.ckpt" in line


@pytest.mark.distributed
def test_two_processes_resume_to_the_bit_and_end_together_when_one_diverges(tmp_path: Path) -> None:
    """Each has random states of its own; the loss of the second alone is not a number, from step 2 on."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "support" / "ddp_faults.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        for _ in range(100):  # the second process may end a little later
            if (tmp_path / f"{rank}.pt").exists():
                break
            time.sleep(0.1)
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["same"] == {"epoch": True, "step": True}, f"process {rank} has other masks or batches"
        assert found["said"].startswith("training diverged at step 2 (epoch 0, batch 2")


TRAINED = ["--data.process", "multivariate_hawkes", "--data.num_sequences", "40", "--data.t_end", "8",
           "--data.batch_size", "4", "--model.embed_dim", "8", "--model.num_heads", "2", "--model.dropout", "0.1",
           "--model.lr_scheduler", "null", "--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "100000",
           "--early_stopping.patience", "100000"]  # fmt: skip
RUNS = Path("outputs", "fit")


def slurm(folder: Path, rank: int = 0, size: int = 1, port: str = "") -> dict[str, str]:
    """What SLURM tells a process of a job, and a `scontrol` that only notes what it is told."""
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir(exist_ok=True)
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {folder / "requeued"}\n')
    scontrol.chmod(0o755)
    told = {"SLURM_NTASKS": str(size), "SLURM_JOB_NAME": "fit", "SLURM_JOB_ID": "7", "SLURM_PROCID": str(rank)}
    told |= {"SLURM_NTASKS_PER_NODE": str(size), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "MASTER_PORT": port}
    return told | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}


def wait_for(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    for _ in range(900):
        if path.exists() or any(process.poll() is not None for process in processes):
            break
        time.sleep(0.1)
    for process in processes:
        assert process.poll() is None, process.stderr and process.stderr.read()[-3000:]


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_slurm_requeues_a_fit_which_then_goes_on_as_if_unbroken(size: int, tmp_path: Path) -> None:
    """SIGUSR1, as `#SBATCH --signal=SIGUSR1@90` has it sent: a checkpoint is left and the job requeued; the same
    command given again goes on from there to the weights of a run that nobody has interrupted."""
    devices = ["--trainer.devices", str(size), "--trainer.strategy", "ddp" if size > 1 else "auto"]
    command = ["fit", *QUIET, *TRAINED, *devices]

    def start(stack: ExitStack, folder: Path, *options: str) -> list[subprocess.Popen[str]]:
        port = free_port()
        ranks = [slurm(folder, rank, size, port) for rank in range(size)]
        return [stack.enter_context(tppsd(folder, *command, *options, **told)) for told in ranks]

    def finish(folder: Path, run: str, steps: int) -> tuple[dict[str, torch.Tensor], str]:
        with ExitStack() as stack:
            processes = start(stack, folder, "--trainer.max_steps", str(steps))
            said = [process.communicate(timeout=180)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * size, said[0][-3000:]
        content = torch.load(folder / RUNS / run / "checkpoints" / "last.ckpt", weights_only=True)
        assert content["global_step"] == steps
        return content["state_dict"], said[0]

    with ExitStack() as stack:
        processes = start(stack, tmp_path)
        wait_for(tmp_path / RUNS / "version_0" / "checkpoints" / "last.ckpt", processes)
        for process in processes:
            process.send_signal(signal.SIGUSR1)
        wait_for(tmp_path / "requeued", processes)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    step = torch.load(tmp_path / RUNS / "slurm_7" / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"]
    resumed, said = finish(tmp_path, "version_1", step + 3)
    assert "hpc_ckpt_1.ckpt" in said
    (tmp_path / "whole").mkdir()
    unbroken, _ = finish(tmp_path / "whole", "version_0", step + 3)
    for name, value in unbroken.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(resumed[name], value), name
