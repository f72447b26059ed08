"""Averaged weights: what they are, that a resumed run has the same, and that they can be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning_helpers import SMALL, small_data, tppsd, trainer
from torch import Tensor

from tppsd import TargetTPP, load
from tppsd.lightning.averaging import AveragedWeights


def flat(module: Any) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


class Note(Callback):
    """Notes the weights after each step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights.append(flat(pl_module))


def distance(averaging: WeightAveraging) -> float:
    """How far what is left after training is from the mean with weights s (s + 1) of the steps s = 1, 2, ..."""
    torch.manual_seed(0)
    note, module = Note(), TargetTPP(2, **SMALL)
    trainer(max_epochs=3, num_sanity_val_steps=2, callbacks=[note, averaging]).fit(module, datamodule=small_data())
    shares = torch.arange(1.0, len(note.weights) + 1, dtype=torch.float64)
    shares = shares * (shares + 1)
    expected = (torch.stack(note.weights) * (shares / shares.sum()).unsqueeze(1)).sum(0)
    return float((flat(module) - expected).abs().max())


def test_late_steps_count_as_a_power_of_their_number() -> None:
    """The rising factorial of s of order 2, in closed form; the mutants average with other weights."""
    assert distance(AveragedWeights(power=2)) < 1e-6
    for other in (WeightAveraging(), AveragedWeights(power=1), AveragedWeights(power=3)):
        assert distance(other) > 1e-4


class SaveAt(Checkpoint):
    """Saves a checkpoint after an epoch, and the best one that `load` reads."""

    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


class Keeps(Checkpoint):
    """Keeps nothing, where Lightning would add a callback that does."""


class ForgetsAnEpoch(AveragedWeights):
    """A mutant: the average that goes on has seen four steps less."""

    def on_load_checkpoint(self, *arguments: Any) -> None:
        super().on_load_checkpoint(*arguments)
        assert self._average_model is not None
        self._average_model.n_averaged -= 4


def run(path: Path | None, *callbacks: Callback, averaging: type[AveragedWeights] = AveragedWeights) -> Tensor:
    """The averages after four epochs with dropout, or after going on from a checkpoint."""
    torch.manual_seed(0 if path is None else 1)
    module = TargetTPP(2, dropout=0.1, **SMALL)
    own = callbacks or [Keeps()]
    trainer(max_epochs=4, enable_checkpointing=True, callbacks=[averaging(), *own]).fit(
        module, datamodule=small_data(), ckpt_path=path, weights_only=True
    )
    return flat(module)


def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    unbroken = run(None, SaveAt(tmp_path / "epoch.ckpt", 1))
    assert torch.equal(run(tmp_path / "epoch.ckpt"), unbroken)
    assert not torch.equal(run(tmp_path / "epoch.ckpt", averaging=ForgetsAnEpoch), unbroken)


def test_a_checkpoint_loads_as_the_average_that_was_validated(tmp_path: Path) -> None:
    run(None, SaveAt(tmp_path / "epoch.ckpt", 3))
    record = torch.load(tmp_path / "epoch.ckpt", weights_only=True)
    name = "model.decoder.output.weight"
    name = name if name in record["state_dict"] else next(n for n in record["state_dict"] if n.endswith("weight"))
    averaged, current = record["state_dict"][name], record["current_model_state"][name]
    assert not torch.equal(averaged, current)
    assert torch.equal(load(tmp_path / "epoch.ckpt").state_dict()[name.removeprefix("model.")], averaged)


FIT = [
    "fit", "--data.process", "multivariate_hawkes", "--data.num_sequences", "20", "--data.t_end", "8",
    "--data.batch_size", "4", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu",
    "--trainer.devices", "1", "--renewal_baseline.num_steps", "0", "--trainer.max_epochs", "1",
    "--model.embed_dim", "8", "--model.num_heads", "2",
]  # fmt: skip
OWN = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "0.5"]


@pytest.mark.parametrize(
    ("options", "own", "others"),
    [([], True, False), (["--averaging.power", "null"], False, False), (OWN, False, True)],
    ids=["by default", "left out", "another one"],
)
def test_fit_averages_once_or_not_at_all(
    options: list[str], own: bool, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tppsd(*FIT, *options) == 0
    record = torch.load("outputs/fit/version_0/checkpoints/last.ckpt", weights_only=True)
    assert ("AveragedWeights" in record["callbacks"]) == own
    assert ("EMAWeightAveraging" in record["callbacks"]) == others
    assert ("averaging_state" in record) == (own or others)
