"""SLURM's signal before a time limit, answered between two steps of training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # those that `sbatch --signal` is told to send


class RequeueBetweenSteps(Callback):
    """Lets Lightning answer SLURM's signal, by a checkpoint and `scontrol requeue`, when a step of training is done.

    Lightning by itself answers in the midst of whatever the process does: in an optimiser's step, where some weights
    have changed and others have not, or after half of a batch's dropout masks are drawn. The processes of a distributed
    run would besides save at different points and wait for each other. Here all of them wait for the end of the step
    in hand, and of the validation that follows it, so that the requeued run is the unbroken one.
    """

    def __init__(self) -> None:
        self._answer: Callable[[int, FrameType | None], Any] | None = None  # Lightning's own
        self._told: int | None = None  # the signal that has come

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over, where nothing was validated before."""
        self._listen()

    def _listen(self) -> None:
        """Replace Lightning's handler, which it has where SLURM requeues; it puts the ones before back itself."""
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            is_lightnings = callable(handler) and type(handler).__module__.startswith("lightning.")
            if is_lightnings and threading.current_thread() is threading.main_thread():
                self._answer, self._told = handler, None  # type: ignore[assignment]  # callable, as was asked
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Answer after a step; not where a validation follows, which a run that goes on from here would leave out."""
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_step and not _is_validated_next(trainer, batch_idx):
            self._answer_all(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer between two epochs."""
        self._answer_all(trainer)

    def _answer_all(self, trainer: Trainer) -> None:
        """Answer, if the signal has come to any process of the run."""
        if self._answer is None:
            return
        if trainer.strategy.reduce_boolean_decision(self._told is not None, all=False):
            number, self._told = self._told or signal.SIGUSR1, None
            self._answer(number, None)


def _is_validated_next(trainer: Trainer, batch_idx: int) -> bool:
    """Say whether Lightning validates after this batch, be it the last of its epoch or one of `val_check_interval`."""
    every = trainer.val_check_batch
    number = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return trainer.is_last_batch or (every not in (None, 1, float("inf")) and (number + 1) % every == 0)


def has_requeue_checkpoint(trainer: Trainer) -> bool:
    """Say whether a requeued job goes on: Lightning takes the latest of these files unless another one is given."""
    return any(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))
