"""A resumed run is the unbroken one, to the last bit, with dropout too."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning_helpers import SMALL, small_data, trainer

from tppsd import TargetTPP
from tppsd.lightning import modules
from tppsd.lightning.random_state import random_states, restore_random_state

CPU = torch.device("cpu")


class SaveAt(Callback):
    """Saves a checkpoint after an epoch."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def weights(max_epochs: int, path: Path | None = None, **arguments: Any) -> dict[str, torch.Tensor]:
    """After training with dropout for so many epochs, or going on from a checkpoint."""
    seed_everything(7 if path is None else 8, verbose=False)  # another process would not have the same state
    module = TargetTPP(2, dropout=0.1, lr_scheduler=None, **SMALL)
    trainer(max_epochs=max_epochs, num_sanity_val_steps=2, **arguments).fit(
        module, datamodule=small_data(), ckpt_path=path, weights_only=True
    )
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def is_same(tmp_path: Path) -> bool:
    unbroken = weights(4, callbacks=[SaveAt(tmp_path / "epoch.ckpt", 1)])
    resumed = weights(4, tmp_path / "epoch.ckpt")
    return all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def test_a_resumed_run_with_dropout_is_the_unbroken_one(tmp_path: Path) -> None:
    assert is_same(tmp_path)


def test_which_it_is_not_without_the_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "restore_random_state", lambda *_: None)
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
