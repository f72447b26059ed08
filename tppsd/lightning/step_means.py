"""Means over the training steps between two that are logged."""

from __future__ import annotations

from torch import Tensor


class StepMeans:
    """Keeps, for each name, the mean since loggers were last told.

    It is less noisy than the last batch, and less work than logging every step.

    Args:
        every: loggers are told of every so many optimiser steps (Lightning's `log_every_n_steps`).
    """

    def __init__(self, every: int = 1) -> None:
        self.every = max(1, every)  # 0: there is no logger
        self._stretch, self._totals = -1, dict[str, Tensor]()

    def add(self, name: str, totals: Tensor, step: int) -> Tensor | None:
        """Add the sum and the count (2,) of a batch of optimiser step `step`, from 0.

        Returns:
            The mean so far where it is to be logged: at the first step, so that the progress bar shows something at
                once, and at those that loggers are told of. None at other steps.
        """
        if step // self.every != self._stretch:
            self._stretch, self._totals = step // self.every, {}
        total, count = self._totals[name] = self._totals.get(name, 0) + totals
        return total / count.clamp_min(1) if step == 0 or (step + 1) % self.every == 0 else None
