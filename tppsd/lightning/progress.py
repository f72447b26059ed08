"""A progress bar for training on a time budget.

It shows seconds, steps, and the NLL beside that of a history-free baseline, or beside how often a target would accept
the events of a distilled draft.
"""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class BudgetProgressBar(ProgressBar):
    """Shows one line for a whole `fit` of `seconds` in one process; pass it beside a TimeBudget of the same length.

    Args:
        seconds: the budget.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar and its clock."""
        columns = (
            BarColumn(28),
            TextColumn("{task.completed:.0f}/{task.total:.0f} s"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, TextColumn("{task.description}"), refresh_per_second=2)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.seconds)
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the newest figures."""
        self._update(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the newest figures."""
        self._update(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the bar."""
        self._stop()

    def _update(self, trainer: Trainer) -> None:
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        shown = [f"{name} {float(metrics[name]):.4f}" for name in ("train/nll", "val/nll") if name in metrics]
        if "val/step_acceptance" in metrics:
            shown.append(f"accepted {float(metrics['val/step_acceptance']):.3f}")
        elif "val/nll_poisson" in metrics:
            shown.append(f"(Poisson {float(metrics['val/nll_poisson']):.4f})")
        completed = min(self.seconds, time.perf_counter() - self._started)
        self._bar.update(
            self._task, completed=completed, description=f"step {trainer.global_step}  " + "  ".join(shown)
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
