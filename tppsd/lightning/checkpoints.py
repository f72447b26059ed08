"""What a run keeps and goes on from: its best weights, its last epoch, and the patience that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


class OwnCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that overwrites its own file and nobody else's."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        is_dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by one of the Trainer's helpers
        if stage != "fit" or trainer.ckpt_path is not None or is_dry or self.dirpath is None:
            return
        file = Path(self.dirpath, f"{self.filename}{self.FILE_EXTENSION}")
        if file.exists():
            raise ValueError(f"{file} is of another run; give another --checkpoint.dirpath, or delete it to train anew")


class BestCheckpoint(OwnCheckpoint):
    """The weights with the best monitored value. A resumed run goes on from the best of the run before, which stays where it is
    until something better is found."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if not Path(state_dict["best_model_path"]).is_file():
            self.best_model_path = ""
            return
        for name in ("best_model_score", "kth_best_model_path", "kth_value", "best_k_models"):
            setattr(self, name, state_dict[name])


class LastCheckpoint(OwnCheckpoint):
    """`last.ckpt`, written after every epoch, better or not: what a killed run is resumed from."""

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        best = trainer.checkpoint_callback
        self.dirpath = best.dirpath if isinstance(best, BestCheckpoint) else self.dirpath  # set up before this one
        super().setup(trainer, pl_module, stage)


class Patience(EarlyStopping):
    """Early stopping; a resumed run has the patience that it is given, not that of the run before."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
