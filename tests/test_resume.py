"""A resumed run is the unbroken one, to the last bit, with dropout too."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_helpers import SMALL, small_data, trainer

from tppsd import TargetTPP
from tppsd.lightning import run_module
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.random_state import random_states, restore_random_state
from tppsd.lightning.schedule import WarmupStableDecay

CPU = torch.device("cpu")


class SaveAt(Callback):
    """Saves a checkpoint after an epoch."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


class SaveInHook(Callback):
    """Saves a checkpoint when a hook is called after so many steps."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        setattr(self, hook, lambda trainer, *_: trainer.global_step == step and trainer.save_checkpoint(path))


class StopAt(Callback):
    """Ends training after so many steps, as the end of a time does, and saves what Lightning calls the epoch's end."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


Weights = dict[str, torch.Tensor]


def weights(
    max_epochs: int,
    path: Path | None = None,
    data: EventDataModule | None = None,
    dropout: float = 0.1,
    lr_scheduler: Any = None,
    **arguments: Any,
) -> Weights:
    """After training for so many epochs, or going on from a checkpoint."""
    seed_everything(7 if path is None else 8, verbose=False)  # another process would not have the same state
    module = TargetTPP(2, dropout=dropout, lr_scheduler=lr_scheduler, **SMALL)
    trainer(max_epochs=max_epochs, num_sanity_val_steps=2, **arguments).fit(
        module, datamodule=data or small_data(), ckpt_path=path, weights_only=True
    )
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def are_equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(other[name], value) for name, value in one.items())


def is_same(tmp_path: Path) -> bool:
    unbroken = weights(4, callbacks=[SaveAt(tmp_path / "epoch.ckpt", 1)])
    return are_equal(unbroken, weights(4, tmp_path / "epoch.ckpt"))


def eight_batches(num_workers: int = 0) -> EventDataModule:
    """An epoch of eight steps."""
    data = small_data(num_sequences=40)
    data.num_workers = num_workers
    return data


@pytest.mark.filterwarnings("error:.*dataloader is not resumable")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_that_goes_on_within_an_epoch_is_the_unbroken_one(
    dropout: float, num_workers: int, tmp_path: Path
) -> None:
    """At step 6 of 8, in the second epoch; with the schedule, for which Lightning asks for the loader early."""
    options: dict[str, Any] = {"dropout": dropout, "lr_scheduler": WarmupStableDecay}
    saved = ModelCheckpoint(tmp_path, "step", every_n_train_steps=14, save_top_k=-1)
    unbroken = weights(3, None, eight_batches(num_workers), callbacks=[saved], enable_checkpointing=True, **options)
    assert are_equal(unbroken, weights(3, tmp_path / "step.ckpt", eight_batches(num_workers), **options))


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 9),  # the first of an epoch
        ("on_train_batch_end", 8),  # the last of an epoch
        ("on_validation_end", 8),
        ("on_train_epoch_end", 8),
        ("on_train_epoch_start", 8),
        ("on_validation_end", 11),
    ],
)
@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_wherever_its_checkpoint_was_written(limit: str, hook: str, step: int, tmp_path: Path) -> None:
    """With a worker, which fetches ahead, and validation after steps 3 and 6 of an epoch, or at its end alone."""
    max_epochs, options = (3, {}) if limit == "max_epochs" else (100, {"max_steps": 24})
    options |= {"val_check_interval": 3} if step == 11 else {}
    save = SaveInHook(hook, step, tmp_path / "hook.ckpt")
    unbroken = weights(max_epochs, None, eight_batches(1), callbacks=[save], **options)
    assert are_equal(unbroken, weights(max_epochs, tmp_path / "hook.ckpt", eight_batches(1), **options))


@pytest.mark.parametrize("resumed", [{"max_epochs": 3}, {"max_epochs": 100, "max_steps": 24}])
def test_a_run_that_was_stopped_within_an_epoch_goes_on_there(resumed: dict[str, Any], tmp_path: Path) -> None:
    """By the end of its time or of its steps: Lightning then says that the epoch is done."""
    unbroken = weights(3, None, eight_batches())
    weights(3, None, eight_batches(), callbacks=[StopAt(14, tmp_path / "time.ckpt")])
    weights(
        100, None, eight_batches(), callbacks=[SaveInHook("on_train_epoch_end", 14, tmp_path / "steps.ckpt")],
        max_steps=14,
    )  # fmt: skip
    for name in ("time", "steps"):
        assert are_equal(unbroken, weights(path=tmp_path / f"{name}.ckpt", data=eight_batches(), **resumed)), name


def test_only_the_first_iteration_of_the_loader_that_is_trained_from_begins_within_an_epoch(tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []

    class Count(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            counts.append((len(list(trainer.train_dataloader)), len(list(trainer.datamodule.train_dataloader()))))

    weights(1, None, eight_batches(), callbacks=[SaveInHook("on_train_batch_end", 6, tmp_path / "step.ckpt")])
    weights(2, tmp_path / "step.ckpt", eight_batches(), callbacks=[Count()])
    assert counts == [(8, 8), (8, 8)]


class SignalAt(Callback):
    """Sends SLURM's signal in the midst of a step, after the masks of dropout are drawn."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("step", "options"),
    [(5, {}), (7, {}), (5, {"val_check_interval": 3}), (2, {"accumulate_grad_batches": 2})],
    ids=["within an epoch", "last step of an epoch", "before a validation", "accumulated"],
)
def test_slurms_signal_waits_for_the_end_of_the_step(
    step: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NAME": "fit", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "requeued"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    told = weights(3, None, eight_batches(), callbacks=[SignalAt(step)], default_root_dir=tmp_path, **options)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    path = tmp_path / "hpc_ckpt_1.ckpt"
    next_one = 2 if options.get("val_check_interval") else 1  # after the sixth step there is a validation first
    assert torch.load(path, weights_only=True)["global_step"] == step + next_one
    assert are_equal(told, weights(3, path, eight_batches(), **options))


def test_a_resumed_run_with_dropout_is_the_unbroken_one(tmp_path: Path) -> None:
    assert is_same(tmp_path)


def test_which_it_is_not_without_the_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "restore_random_state", lambda *_: None)
    assert not is_same(tmp_path)


def test_loading_a_checkpoint_leaves_the_generators_alone(tmp_path: Path) -> None:
    """Only a run that goes on takes them over: neither a score nor a module that is loaded and trained anew."""
    weights(1, callbacks=[SaveAt(tmp_path / "epoch.ckpt", 0)])
    module = TargetTPP.load_from_checkpoint(tmp_path / "epoch.ckpt")
    trainer().validate(module, datamodule=small_data(), ckpt_path=tmp_path / "epoch.ckpt", verbose=False)
    assert module._random_states is None


def test_every_generator_comes_back(tmp_path: Path) -> None:
    states = random_states(CPU)
    torch.save(states, tmp_path / "states.pt")

    def draws() -> list[float]:
        return [float(torch.rand(())), random.random(), float(numpy.random.rand()), random.gauss(0, 1)]

    expected = draws()
    assert draws() != expected
    restore_random_state(torch.load(tmp_path / "states.pt", weights_only=True), 0, 1, CPU)
    assert draws() == expected
    other = draws()
    restore_random_state(states, 0, 2, CPU)  # two processes now: nothing to take over
    assert draws() != other
