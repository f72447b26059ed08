"""Training of a module for a given time or until it no longer improves, with its best weights stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from tppsd.lightning.budget import TimeBudget
from tppsd.lightning.datamodule import EventDataModule
from tppsd.lightning.modules import TPPModule
from tppsd.lightning.progress import BudgetProgressBar

EVENTS_PER_STEP = 1100  # small steps learn faster per second than large ones on a CPU
VALIDATIONS = 12  # of a run on a time budget
_EVENTS_PER_SECOND = 8_000  # a guess of the training speed that only decides how often we look


class Fitted(NamedTuple):
    """Says what `fit_best` did.

    Fields:
        trainer: the Trainer, after its run.
        path: the checkpoint with the best monitored value.
        epochs: passes over the training split.
        seconds: wall-clock time.
    """

    trainer: Trainer
    path: Path
    epochs: float
    seconds: float


def fit_best(
    module: TPPModule,
    data: EventDataModule,
    path: Path,
    *,
    seconds: float | None = None,
    max_epochs: int = 100_000,
    patience: int | None = None,
    monitor: str = "val/nll",
    accelerator: str = "cpu",
    logger: CSVLogger | None = None,
) -> Fitted:
    """Train `module` on one device and keep the weights with the best `monitor` at `path`.

    Args:
        seconds: wall-clock budget, validated VALIDATIONS times; None = none, validated after every epoch.
        max_epochs, patience: the end without a budget: after so many epochs, or so many without a better `monitor`.
        monitor: "val/nll", the lowest, or "val/step_acceptance", the highest, of a module with a distillation target.
    """
    mode = "max" if monitor == "val/step_acceptance" else "min"
    best = ModelCheckpoint(
        dirpath=path.parent, filename=path.stem, monitor=monitor, mode=mode, enable_version_counter=False
    )
    callbacks: list[Any] = [best]
    timing: dict[str, Any] = {}
    if seconds is None:
        callbacks += [RichProgressBar(leave=False)]
        callbacks += [] if patience is None else [EarlyStopping(monitor, mode=mode, patience=patience)]
    else:
        callbacks += [TimeBudget(seconds), BudgetProgressBar(seconds)]
        timing = {"val_check_interval": _validation_interval(data, seconds), "check_val_every_n_epoch": None}
    trainer = Trainer(
        max_epochs=max_epochs, accelerator=accelerator, devices=1, gradient_clip_val=1.0, num_sanity_val_steps=0,
        log_every_n_steps=10, enable_model_summary=False, callbacks=callbacks, logger=logger or False, **timing,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.fit(module, datamodule=data)
    if not best.best_model_path:  # the budget ended before the first validation
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.save_checkpoint(path)
    epochs = trainer.global_step * data.batch_size / max(1, len(data.sequences("train")))
    return Fitted(trainer, Path(best.best_model_path or path), round(epochs, 1), time.perf_counter() - started)


def small_batch_size(data: EventDataModule) -> int:
    """Return how many sequences have about EVENTS_PER_STEP events, at least 4 and at most 256."""
    mean_length = data.statistics.num_events / len(data.sequences("train"))
    return max(4, min(256, round(EVENTS_PER_STEP / max(1.0, mean_length))))


def _validation_interval(data: EventDataModule, seconds: float) -> int:
    """Return how many steps lie between validations."""
    events_per_step = data.batch_size * data.statistics.num_events / max(1, len(data.sequences("train")))
    return max(10, int(seconds * _EVENTS_PER_SECOND / max(1.0, events_per_step) / VALIDATIONS))


def adamw(learning_rate: float) -> Any:
    """Return a factory of AdamW for short runs: (parameters) -> optimiser."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
