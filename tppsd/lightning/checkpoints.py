"""Checkpoints of a run: its best weights and its last epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class OwnCheckpoint(ModelCheckpoint):
    """Is a ModelCheckpoint that overwrites its own file and nobody else's.

    Attributes:
        resumed_from: the checkpoint that the run goes on from; files beside it are its own.
        is_requeued: SLURM has started the run again; all files are its own.
    """

    resumed_from: Path | None = None
    is_requeued = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to overwrite a file of another run.

        Raises:
            ValueError: there is one; the sentence names it.
        """
        super().setup(trainer, pl_module, stage)
        is_dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by one of the Trainer's helpers
        if stage != "fit" or is_dry or self.is_requeued or self.dirpath is None:
            return
        file = Path(self.dirpath, f"{self.filename}{self.FILE_EXTENSION}")
        is_own = self.resumed_from is not None and self.resumed_from.resolve().parent == file.resolve().parent
        if file.exists() and not is_own:
            raise ValueError(f"{file} is of another run; give another --checkpoint.dirpath, or delete it to train anew")


class BestCheckpoint(OwnCheckpoint):
    """Stores the weights with the best monitored value.

    A resumed run goes on from the best of the run before, which stays where it is until something better is found.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score of the run before, where its file is still there."""
        if not Path(state_dict["best_model_path"]).is_file():  # nothing to go on from
            return
        super().load_state_dict(state_dict)
        for name in ("best_model_score", "kth_best_model_path", "kth_value", "best_k_models"):
            setattr(self, name, state_dict[name])


def best_checkpoint(trainer: Trainer) -> BestCheckpoint | None:
    """Return the run's own BestCheckpoint, whatever other checkpoints it writes."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)), None)


class LastCheckpoint(OwnCheckpoint):
    """Writes `last.ckpt` after every epoch, better or not: what a killed run is resumed from."""

    def __init__(self) -> None:
        super().__init__(filename="last", enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write beside the best checkpoint."""
        best = best_checkpoint(trainer)
        self.dirpath = self.dirpath if best is None else best.dirpath  # set up before this one
        super().setup(trainer, pl_module, stage)
