"""Training for a given time: the learning-rate schedule is planned for the steps that fit into it."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tppsd.lightning.schedule import PlannedSchedule

_FIRST_MEASURED, _REPLAN_EVERY = 10, 25  # steps


class TimeBudget(Callback):
    """Ends `fit` after `seconds` and keeps a PlannedSchedule planned to end there.

    `Trainer(max_time=...)` would cut the schedule midway. Runs bounded by the clock are not reproducible: use epochs or
    steps where that matters.

    Args:
        seconds: wall-clock time from the first training step, validation included.

    Attributes:
        is_over: it has ended `fit`.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds = {seconds} must be positive and finite")
        self.seconds, self.is_over = seconds, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started, self._first_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Plan the schedule for the steps that fit into the time, and end training when it is over."""
        elapsed, steps = time.perf_counter() - self._started, trainer.global_step - self._first_step
        if steps >= _FIRST_MEASURED and (steps == _FIRST_MEASURED or steps % _REPLAN_EVERY == 0):
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, PlannedSchedule):
                    config.scheduler.total_steps = self._first_step + max(steps, int(steps * self.seconds / elapsed))
        if trainer.strategy.reduce_boolean_decision(elapsed >= self.seconds, all=False):
            trainer.should_stop = self.is_over = True
