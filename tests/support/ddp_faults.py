"""What tests/test_bad_days.py runs on two processes: python tests/support/ddp_faults.py FOLDER.

Leaves RANK.pt in FOLDER: whether a run with dropout that is resumed after an epoch, or within one, has the weights of
the unbroken one, and what the process says of a loss that is not a number on the other one alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning_helpers import SMALL, small_data, trainer

from tppsd import TargetTPP
from tppsd.lightning.divergence import DivergedError


class SaveFirst(Callback):
    """Saves after the first epoch, and after the third of the four steps of the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.folder / "epoch.ckpt")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint(self.folder / "step.ckpt")


class Poisoned(TargetTPP):
    """The loss of the second process is not a number, from the third step on."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if self.global_rank == 1 and self.global_step >= 2 else loss


def weights(seed: int, path: Path | None = None, **arguments: Any) -> tuple[list[torch.Tensor], Any]:
    seed_everything(seed, verbose=False)
    module = TargetTPP(2, dropout=0.1, lr_scheduler=None, **SMALL)
    run = trainer(max_epochs=3, devices=2, strategy="ddp", **arguments)
    torch.manual_seed(seed + run.global_rank)  # each process draws masks of its own
    run.fit(module, datamodule=small_data(batch_size=2), ckpt_path=path, weights_only=True)
    return [value.detach().clone() for value in module.parameters()], run


def main(folder: Path) -> None:
    unbroken, run = weights(7, callbacks=[SaveFirst(folder)])
    same = {}
    for name in ("epoch", "step"):
        resumed, _ = weights(8, folder / f"{name}.ckpt")
        same[name] = all(torch.equal(one, other) for one, other in zip(unbroken, resumed, strict=True))
    try:
        trainer(max_epochs=3, devices=2, strategy="ddp").fit(Poisoned(2, **SMALL), datamodule=small_data(batch_size=2))
        said = "nothing"
    except DivergedError as error:
        said = str(error)
    torch.save({"same": same, "said": said}, folder / f"{run.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
